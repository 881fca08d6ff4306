"""Errors against the number of training images, and the power law that they follow."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from capsjax.analyses.intervals import Interval


class Curve(NamedTuple):
    """A network's errors.

    Attributes:
        network: its name.
        images: training images of each class, ascending.
        errors: test error in percent for each, with the 95 % interval over the seeds.
        law: a and b of the fitted ``a * n^-b``; None with fewer than two numbers n.
    """

    network: str
    images: tuple[int, ...]
    errors: tuple[Interval, ...]
    law: tuple[float, float] | None


def fit(images: Sequence[int], errors: Sequence[float]) -> tuple[float, float] | None:
    """The a and b of ``error = a * n^-b``, by least squares of the logarithms.

    Errors of zero, which have none, are left out. None if fewer than two remain.
    """
    found = [(n, error) for n, error in zip(images, errors, strict=True) if error > 0]
    if len({n for n, _ in found}) < 2:
        return None
    x, y = np.log(np.array(found, np.float64)).T
    slope, intercept = np.polyfit(x, y, 1)
    return float(np.exp(intercept)), float(-slope)
