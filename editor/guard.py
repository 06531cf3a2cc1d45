"""Refuses requests from web pages of other sites.

Such a page can make the browser send requests to a loopback address, and can resolve its own name
to our address (DNS rebinding). The first is visible in ``Origin`` and ``Sec-Fetch-Site``, the
second in ``Host``.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Middleware

from ..sd2.files.path_inside import OutsideFolderError
from .messages import BadRequestError, reply

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
    if origin is not None:
        same = urlsplit(origin).netloc.lower() == authority.lower()
        if not same:
            return f"Requests from pages of {origin!r} are refused."
    site = request.headers.get("Sec-Fetch-Site")
    navigation = request.headers.get("Sec-Fetch-Mode") == "navigate" and request.method == "GET"
    if site in ("cross-site", "same-site") and not navigation:
        return "Requests from pages of other sites are refused."
    return None


def make_guard(bound_to: str) -> Middleware:
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        reason = refusal(request, bound_to)
        if reason is not None:
            log.warning("editor: refused %s %s: %s", request.method, request.path, reason)
            return reply({"error": reason}, status=403)
        try:
            return await handler(request)
        except (BadRequestError, OutsideFolderError) as error:
            return reply({"error": str(error)}, status=400)

    return web.middleware(guard)
