"""New figures and PNG files, without pyplot: its state belongs to the user.

Names of classes, runs and folders are text, in any language: `save` shows dollar signs
and backslashes as they are, and takes letters that matplotlib's own font lacks from
another installed font.
"""

import functools
import pathlib
import sys
import warnings
from collections.abc import Iterable
from typing import Any, BinaryIO

from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter

_FONT = "DejaVu Sans"


def new(**options: Any) -> Figure:
    """An empty figure; ``options`` as for ``matplotlib.figure.Figure``."""
    return Figure(layout="constrained", **options)


def subplots(*shape: int, figsize: tuple[float, float], **options: Any) -> Any:
    """A figure and its axes, as ``pyplot.subplots`` returns them; sizes in inches."""
    figure = new(figsize=figsize)
    return figure, figure.subplots(*shape, **options)


def from_zero(axes: Axes) -> None:
    """Sets the limits of y from zero to all that is drawn, on its present scale.

    Nothing lies on the frame, which would hide half of it.
    """
    highest = axes.dataLim.y1 if axes.dataLim.y1 > 0 else 1.0
    scale = axes.yaxis.get_transform()
    low, high = scale.transform([0.0, highest])
    margin = 0.05 * (high - low)
    axes.set_ylim(*scale.inverted().transform([low - margin, high + margin]))


def shortened(name: str, most: int = 24) -> str:
    """Returns a name with its middle left out if it has more letters than `most`."""
    if len(name) <= most:
        return name
    return f"{name[: (most - 1) // 2]}…{name[-(most // 2) :]}"


def save(figure: Figure, target: pathlib.Path | BinaryIO, dpi: int = 110) -> None:
    """Writes a figure as PNG to a path or an open file."""
    texts = _plain_texts(figure)
    letters = {letter for text in texts for letter in text.get_text()}
    fonts = [_FONT, *_fonts_for(frozenset(letters - _letters(_FONT) - {"\n"}))]
    for text in texts:
        text.set_parse_math(False)
        text.set_fontfamily(fonts)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")
        figure.savefig(target, format="png", dpi=dpi)


def _plain_texts(figure: Figure) -> list[Text]:
    """Finds all texts but the numbers at axes, whose powers of ten are formulas."""
    numbers = {
        label
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        if isinstance(axis.get_major_formatter(), LogFormatter)
        for which in ("major", "minor")
        for label in axis.get_ticklabels(which=which)
    }
    return [text for text in figure.findobj(Text) if text not in numbers]


@functools.cache
def _fonts_for(missing: frozenset[str]) -> list[str]:
    """Finds installed fonts that have the letters; says which letters none has."""
    found: list[str] = []
    for name in sorted({font.name for font in font_manager.fontManager.ttflist}):
        if not missing:
            break
        if has := missing & _letters(name):
            found.append(name)
            missing -= has
    if missing:
        _say_missing(missing)
    return found


def _say_missing(letters: Iterable[str]) -> None:
    shown = "".join(sorted(letters)[:10])
    print(
        f"note: no installed font has the letters {shown}; figures show boxes in their "
        "place (Noto Sans CJK has most of them)",
        file=sys.stderr,
    )


@functools.cache
def _letters(font: str) -> frozenset[str]:
    properties = font_manager.FontProperties(family=font)
    path = font_manager.findfont(properties, fallback_to_default=False)
    return frozenset(map(chr, font_manager.get_font(path).get_charmap()))
