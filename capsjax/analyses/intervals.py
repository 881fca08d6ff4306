"""Confidence intervals of accuracies."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.stats


class Interval(NamedTuple):
    """An estimate and the interval that holds the true value with 95 % confidence."""

    value: float
    low: float
    high: float


def accuracy(
    right: npt.NDArray[np.bool_], groups: npt.NDArray[np.integer] | None = None
) -> Interval:
    """The share of images that were recognised.

    The interval is Wilson's if the images are independent. If several are made from one
    original, it comes from the variance between the originals' shares.

    Args:
        right: [N], whether each image was recognised.
        groups: [N], the original of each image.
    """
    if groups is None or len(np.unique(groups)) == len(groups):
        found = scipy.stats.binomtest(int(right.sum()), len(right))
        low, high = found.proportion_ci(method="wilson")
        return Interval(float(np.mean(right)), float(low), float(high))
    return _of_means(right.astype(np.float64), groups)


def difference(
    first: npt.NDArray[np.bool_],
    second: npt.NDArray[np.bool_],
    groups: npt.NDArray[np.integer] | None = None,
) -> Interval:
    """The first model's share less the second model's, on the same images.

    Differences are taken image by image, so that what makes an image hard for both
    models cancels. Arguments as for `accuracy`. Where no image differs, the interval is
    that of the rule of three: 3 of n images either way.
    """
    groups = np.arange(len(first)) if groups is None else groups
    differences = first.astype(np.float64) - second
    if len(first) and not np.any(differences):
        bound = min(3 / len(np.unique(groups)), 1.0)
        return Interval(0.0, -bound, bound)
    return _of_means(differences, groups)


def mean(values: npt.NDArray[np.float64]) -> Interval:
    """The mean of independent values [N], with Student's interval.

    The interval has no bounds for a single value.
    """
    return _of_means(values, np.arange(len(values)))


def over_trainings(found: Sequence[Interval]) -> Interval:
    """The mean over trainings of a network, each measured on the same images.

    Two things are random, the training and the images. Student's interval of the mean
    holds the first; that of a training, from the images, does not become smaller by
    other trainings that see the same ones. Their squares are added, on each side. Of a
    single training it is its own interval.

    Args:
        found: the value of each training, with its interval over the images.
    """
    values, low, high = np.array(found, np.float64).T
    spread = mean(values).high - values.mean() if len(values) > 1 else 0.0
    below = np.hypot(np.mean(values - low), spread)
    above = np.hypot(np.mean(high - values), spread)
    value = float(values.mean())
    return Interval(value, float(value - below), float(value + above))


def of_share(interval: Interval) -> Interval:
    """An interval without what a share cannot be, below 0 or above 1.

    One without bounds stays without.
    """
    if np.isinf(interval.low):
        return interval
    return Interval(interval.value, max(interval.low, 0.0), min(interval.high, 1.0))


def _of_means(
    values: npt.NDArray[np.float64], groups: npt.NDArray[np.integer]
) -> Interval:
    """A mean whose groups, of about equal size, are independent of each other."""
    _, index = np.unique(groups, return_inverse=True)
    means = np.bincount(index, values) / np.bincount(index)
    mean = float(np.mean(means))
    if len(means) < 2:
        return Interval(mean, -np.inf, np.inf)
    half = scipy.stats.t.ppf(0.975, len(means) - 1) * np.std(means, ddof=1)
    half /= len(means) ** 0.5
    return Interval(mean, float(mean - half), float(mean + half))
