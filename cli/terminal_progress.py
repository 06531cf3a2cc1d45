"""Shows the running node and its progress on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from ..sd2.errors import plain_text

if TYPE_CHECKING:
    from tqdm import tqdm


LONGEST_TITLE = 100


class TerminalProgress:
    """An event listener that draws a progress bar on stderr, if that is a terminal."""

    def __init__(
        self, titles: Mapping[str, str], *, quiet: bool = False, stream: TextIO | None = None
    ) -> None:
        self._titles = titles
        self._stream = sys.stderr if stream is None else stream
        self._shown = not quiet and self._stream.isatty()
        self._bar: tqdm[Any] | None = None

    def __call__(self, event: str, data: dict[str, Any]) -> None:
        if not self._shown:
            return
        if event == "executing" and data["node"] is not None:
            self._open(data["display_node"], None)
        elif event == "progress":
            if self._bar is None or self._bar.total != data["max"]:
                self._open(data["node"], data["max"])
            assert self._bar is not None
            self._bar.update(data["value"] - self._bar.n)
        elif event in ("execution_success", "execution_error", "execution_interrupted"):
            self.close()

    def _open(self, node_id: str, maximum: float | None) -> None:
        from tqdm import tqdm

        self.close()
        title = plain_text(self._titles.get(node_id, node_id), LONGEST_TITLE)
        self._bar = tqdm(
            desc=title,
            total=maximum,
            file=self._stream,
            leave=False,
            bar_format=None if maximum is not None else "{desc} …",
        )

    def close(self) -> None:
        """Clear the line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> TerminalProgress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
