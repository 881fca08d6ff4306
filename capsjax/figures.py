"""New figures and PNG files, without pyplot: its state belongs to the user."""

import pathlib
from typing import Any

from matplotlib.figure import Figure


def new(**options: Any) -> Figure:
    """An empty figure; ``options`` as for ``matplotlib.figure.Figure``."""
    return Figure(layout="constrained", **options)


def subplots(*shape: int, figsize: tuple[float, float], **options: Any) -> Any:
    """A figure and its axes, as ``pyplot.subplots`` returns them; sizes in inches."""
    figure = new(figsize=figsize)
    return figure, figure.subplots(*shape, **options)


def save(figure: Figure, path: pathlib.Path) -> None:
    """Writes a figure as PNG."""
    figure.savefig(path, dpi=110)
