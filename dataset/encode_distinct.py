"""Encodes each distinct caption of a data set once: ``--dedup global``.

OUT/keys/          which caption each key has: an ordinary set, encoded by a tokenizer alone
OUT/distinct/      the distinct captions, with their content ids as keys
OUT/embeddings/    the embeddings of these: an ordinary set
"""

from __future__ import annotations

import posixpath
import time

from ..sd2.errors import OptionError
from .caption_encoder import CaptionEncoder
from .distinct_captions import choose_distinct
from .encode_captions import (
    Engine,
    Progress,
    checked_size,
    encode_captions,
    encode_inputs,
    ignore_progress,
)
from .finish import Summary
from .formats import Format, FormatOptions
from .formats.keys import Keys
from .inputs.captions import ReadOptions
from .inputs.find import STDIN
from .leases import Part
from .local_engine import LocalEngine
from .plan import OutFolderError, read_plan
from .storage import Folder
from .tokenizers import CaptionTokenizer

KEYS, DISTINCT, EMBEDDINGS = "keys", "distinct", "embeddings"

WAIT = 2
"""Seconds after which a process looks again whether other parts have tokenized theirs."""


def encode_distinct(
    source: str,
    out: str,
    encoder: CaptionEncoder,
    format: Format,
    *,
    read: ReadOptions | None = None,
    fragment_size: int | None = None,
    part: Part | None = None,
    engine: Engine | None = None,
    verify: bool = False,
    prune: bool = False,
    progress: Progress = ignore_progress,
) -> Summary:
    """Encode each distinct caption of *source* once; see ``encode_captions``.

    The summary counts the distinct captions; ``keys`` is how many there are of all. Raises
    ``OptionError`` for a format whose files are found by the text of a caption.
    """
    part, engine = part or Part(), engine or LocalEngine()
    size = checked_size(format, fragment_size)
    if not format.per_fragment:
        raise OptionError(
            f"--format {format.name} has a file for each text already, found by the text. Leave "
            "--dedup global out."
        )
    if part.of > 1 and source.startswith(STDIN):
        raise OptionError("--dedup global with --part needs a file, not standard input.")
    tokenizer, keys_format = CaptionTokenizer(encoder.tokenizer), Keys(FormatOptions())
    keys_format.check({})
    _check_out(Folder(out))
    # Before the first pass, so that a wrong checkpoint or format is said at once.
    environment = engine.environment(encoder)
    format.check(environment.settings)
    keys_folder = Folder(posixpath.join(out, KEYS))

    def encode_keys() -> Summary:
        return encode_captions(
            source,
            keys_folder.url,
            tokenizer,
            keys_format,
            read=read,
            part=part,
            engine=engine,
            verify=verify,
            prune=prune,
            progress=progress,
        )

    keys = encode_keys()
    while keys.missing:  # other parts tokenize them; those of a process that ended are taken over
        time.sleep(WAIT)
        keys = encode_keys()
    distinct = Folder(posixpath.join(out, DISTINCT))
    embeddings = Folder(posixpath.join(out, EMBEDDINGS))
    for folder in (distinct, embeddings):
        folder.remove_stale_partials()
    summary = encode_inputs(
        choose_distinct(keys_folder, distinct, verify=verify),
        embeddings,
        encoder,
        environment,
        format,
        read=ReadOptions(column="caption", key_column="key"),
        fragment_size=size,
        part=part,
        engine=engine,
        verify=verify,
        prune=prune,
        progress=progress,
    )
    summary.keys = keys.counts.captions
    summary.counts.failed, summary.left_out = keys.counts.failed, keys.left_out
    summary.stale_files += keys.stale_files
    summary.pruned += keys.pruned
    return summary


def _check_out(out: Folder) -> None:
    """Check that *out* has such a set or nothing. Raises ``OutFolderError``."""
    if read_plan(Folder(posixpath.join(out.url, KEYS))) is not None:
        return
    ours = (KEYS, DISTINCT, EMBEDDINGS)
    others = [file.name for file in out.files() if file.name.partition("/")[0] not in ours]
    if others:
        raise OutFolderError(
            f"{out.url} contains other files ({', '.join(others[:3])}). A set of distinct captions "
            "cannot be added to them: choose a new or empty folder."
        )
