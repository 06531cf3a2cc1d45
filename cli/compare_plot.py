"""Draws a comparison: the distance and the cosine of each token."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..clip.compare import ComparedPrompt, Comparison
from ..sd2.errors import OptionError, how_to_install

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INCHES_A_TOKEN = 0.28
WIDEST = 60.0
"""Inches. Beyond it, tokens get narrower."""


def check_plot(path: Path) -> None:
    """Raise ``OptionError`` unless matplotlib is there and writes files of this name."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError as error:
        raise OptionError(
            f"Drawing needs matplotlib. {how_to_install('matplotlib', 'plot')}"
        ) from error
    known = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix.lower().removeprefix(".") not in known:
        raise OptionError(f"{path}: the picture's name must end in .png (or {', .'.join(known)}).")


def write_plot(comparison: Comparison, path: Path) -> None:
    """Draw *comparison* into the file *path*; an existing one is replaced."""
    from matplotlib.figure import Figure

    prompts = comparison.prompts
    tokens = max(len(prompt.pairs) for prompt in prompts)
    width = min(max(6.0, INCHES_A_TOKEN * tokens), WIDEST)
    figure = Figure(figsize=(width, 4.5 * len(prompts)), layout="constrained")
    for axes, prompt in zip(
        figure.subplots(len(prompts), squeeze=False).flat, prompts, strict=True
    ):
        _draw(axes, prompt)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a letter that the font lacks is a box
        figure.savefig(path, dpi=120)


def _draw(axes: Axes, prompt: ComparedPrompt) -> None:
    """Draw bars of the distances on the left scale, points of the cosines on the right one."""
    distances = [pair.distance for pair in prompt.pairs]
    positions = range(len(distances))
    labels: list[Any] = [pair.label for pair in prompt.pairs]
    axes.bar(positions, [one.relative if one else 0.0 for one in distances], color="tab:blue")
    # Not parsed: a $ of the text is no formula.
    axes.set_xticks(positions, labels, rotation=90, fontsize=8, parse_math=False)
    axes.set_ylabel("distance |B - A| / |A|", color="tab:blue")
    axes.set_ylim(bottom=0)
    axes.margins(x=0.01)
    cosines = [(at, one.cosine) for at, one in zip(positions, distances, strict=True) if one]
    right = axes.twinx()
    right.plot(*zip(*cosines, strict=True), "o", color="tab:orange", markersize=3)
    right.set_ylabel("cosine", color="tab:orange")
    right.set_ylim(min(0.0, *(cosine for _, cosine in cosines)), 1.02)
    if prompt.when:
        axes.set_title(prompt.when, fontsize=9)
