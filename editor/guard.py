"""Refuses requests from web pages of other sites.

Such a page can make the browser send requests to a loopback address, and can resolve its own name
to our address (DNS rebinding). The first is visible in ``Origin`` and ``Sec-Fetch-Site``, the
second in ``Host``.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Middleware

from ..sd2.errors import SD2ClipError, plain_text
from ..sd2.files.path_inside import OutsideFolderError
from .editor_errors import StorageError
from .messages import reply

log = logging.getLogger("sd2_clip")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def host_name(authority: str) -> str | None:
    """Parse the name or address in a ``Host`` header; None if it is malformed."""
    try:
        parts = urlsplit(f"//{authority}")
        _ = parts.port
    except ValueError:
        return None
    if parts.username is not None or parts.path or parts.query or parts.fragment:
        return None
    return parts.hostname


def is_own_host(name: str | None, bound_to: str) -> bool:
    """Whether a request's host may mean a server bound to *bound_to*.

    Another site cannot rebind a numeric address, so a server that the user opened to the network
    accepts all of them.
    """
    if name is None:
        return False
    if name in ("localhost", bound_to.lower()) or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or not is_loopback(bound_to)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to *host*."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def refusal(request: web.Request, bound_to: str) -> str | None:
    """Return why a request is refused; None if it is not."""
    authority = request.headers.get("Host", "")
    if not is_own_host(host_name(authority), bound_to):
        return f"This server does not answer requests for the host {authority!r}."
    origin = request.headers.get("Origin")
    if origin is not None and not _is_same_origin(origin, authority):
        return f"Requests from pages of {origin!r} are refused."
    site = request.headers.get("Sec-Fetch-Site")
    navigation = request.headers.get("Sec-Fetch-Mode") == "navigate" and request.method == "GET"
    if site in ("cross-site", "same-site") and not navigation:
        return "Requests from pages of other sites are refused."
    return None


def _is_same_origin(origin: str, authority: str) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == authority.lower()
    except ValueError:  # an address in brackets that is none
        return False


STATUS_OF = {
    errno.ENOENT: 404,
    errno.ENAMETOOLONG: 400,
    errno.EINVAL: 400,
    errno.ELOOP: 400,
    errno.EACCES: 403,
    errno.EPERM: 403,
    errno.EROFS: 403,
    errno.EEXIST: 409,
    errno.ENOTDIR: 409,
    errno.EISDIR: 409,
    errno.ENOTEMPTY: 409,
    errno.ENOSPC: 507,
    errno.EFBIG: 507,
    getattr(errno, "EDQUOT", errno.ENOSPC): 507,  # Windows has no quotas by this name
}
"""What an error of the file system is to the client; 500 for all others, such as a broken disk."""


def _answer_to(error: Exception) -> web.Response:
    """Return one sentence for an error that a request or the disk caused."""
    status = 400
    message = str(error)
    if isinstance(error, StorageError):
        status = 409
    elif isinstance(error, OSError):
        status = STATUS_OF.get(error.errno or 0, 500)
        of = f", {Path(os.fsdecode(error.filename)).name!r}" if error.filename else ""
        message = f"The server's disk{of}: {error.strerror or error}."
    elif isinstance(error, UnicodeError):
        message = "The request contains text that is not the name of a file."
    return reply({"error": plain_text(message)}, status=status)


def make_guard(bound_to: str) -> Middleware:
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        reason = refusal(request, bound_to)
        if reason is not None:
            log.warning("editor: refused %s %s: %s", request.method, request.path, reason)
            return reply({"error": plain_text(reason)}, status=403)
        try:
            return await handler(request)
        except ConnectionError:  # the client has left
            raise
        except (SD2ClipError, OutsideFolderError, OSError, UnicodeError) as error:
            return _answer_to(error)
        except web.HTTPException:  # aiohttp's own refusals, such as a body that is too large
            raise
        except Exception as error:
            log.exception("editor: %s %s failed", request.method, request.path)
            message = f"The server failed with {type(error).__name__}. Its log says where."
            return reply({"error": message}, status=500)

    return web.middleware(guard)
