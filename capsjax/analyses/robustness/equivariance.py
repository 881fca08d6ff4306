"""Whether poses turn with the image, and whether they tell how far it was turned.

A capsule's pose v is said to be equivariant: a movement T of the image moves the pose
in a way that depends on T, and not on the image. Two readings of that are measured, on
images other than those to which everything is fitted.

The first: one linear map for each class and movement, ``v(Tx) - v(x) = v(x) W + b``.
Its R2 is the share of the change, squared and summed, that it predicts. That alone says
little: a constant change, the class's mean, may predict as much; and a pose that breaks
down to a constant changes in the most predictable way. So there are two more: R2
against the class's mean change, and the share of the variance of v(Tx) about its
class's mean. A network is equivariant in this sense if all three are near 1, or, if
poses move by a constant, the first and the last.

The second: the amount of a movement, such as the angle, as a linear function of the
pose of the moved image, one for each class.

References:
    Sabour, Frosst and Hinton 2017, section 1, and Hinton, Sabour and Frosst 2018,
    section 1, for what poses should do; Lenc and Vedaldi 2015, "Understanding Image
    Representations by Measuring Their Equivariance and Equivalence", for linear maps.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from capsjax.analyses import intervals
from capsjax.analyses.intervals import Interval
from capsjax.analyses.robustness import ridge
from capsjax.analyses.robustness.poses import MOVES, Poses
from capsjax.analyses.robustness.warps import WARPS

LEAST_IMAGES = 10
"""Images of a class to which a map is fitted; classes with fewer are left out."""

_RESAMPLES = 1000

R2 = Interval
"""A share of a sum of squares, with its 95 % interval; NaN of an empty sum."""


@dataclasses.dataclass(frozen=True)
class Moved:
    """How well a linear map predicts what a movement does to poses.

    Attributes:
        change: R2 of the predicted change, against none.
        mean: R2 of the class's mean change, against none.
        beyond_mean: R2 of the predicted change, against the class's mean change.
        pose: R2 of the predicted pose, against the class's mean pose after it.
        images: images that were predicted.
    """

    change: R2
    mean: R2
    beyond_mean: R2
    pose: R2
    images: int


READINGS = ("change", "mean", "beyond_mean", "pose")
"""Names of the R2 of `Moved`."""


@dataclasses.dataclass(frozen=True)
class Equivariance:
    """Both readings for one network.

    Attributes:
        run: name of the run, or of the network of several.
        moved: for each of `MOVES`.
        amounts: R2 of the amount as read from the pose, by the name of the warp.
        width: numbers of a pose.
        commit: the commit that computed the poses.
    """

    run: str
    moved: Mapping[tuple[str, float], Moved]
    amounts: Mapping[str, R2]
    width: int
    commit: str


def analyse(poses: Poses, half: Bool[np.ndarray, " N"], seed: int) -> Equivariance:
    """Fits and tests all maps of a network.

    Args:
        poses: its poses.
        half: the images to which they are fitted; they are tested on the others.
        seed: seed of the bootstrap.
    """
    moved = {
        move: of_move(poses.upright, after, poses.classes, half, seed)
        for move, after in zip(MOVES, poses.moved, strict=True)
    }
    amounts = {}
    for name, warp in WARPS.items():
        numbers = [number for number, move in enumerate(MOVES) if move[0] == name]
        views = np.stack([poses.upright, *poses.moved[numbers]])
        at = np.array([warp.identity, *(MOVES[number][1] for number in numbers)])
        amounts[name] = of_amount(views, at, poses.classes, half, seed)
    return Equivariance(poses.run, moved, amounts, poses.upright.shape[1], poses.commit)


def over_trainings(name: str, found: Sequence[Equivariance]) -> Equivariance:
    """The means over trainings of one network.

    Args:
        name: name of the network.
        found: its trainings.
    """
    moved = {
        move: Moved(
            images=found[0].moved[move].images,
            **{
                reading: intervals.over_trainings(
                    [getattr(one.moved[move], reading) for one in found]
                )
                for reading in READINGS
            },
        )
        for move in found[0].moved
    }
    amounts = {
        kind: intervals.over_trainings([one.amounts[kind] for one in found])
        for kind in found[0].amounts
    }
    return dataclasses.replace(found[0], run=name, moved=moved, amounts=amounts)


def of_move(
    before: Float[np.ndarray, "N Q"],
    after: Float[np.ndarray, "N Q"],
    classes: Int[np.ndarray, " N"],
    half: Bool[np.ndarray, " N"],
    seed: int = 0,
) -> Moved:
    """Fits a linear map for each class, and predicts the other half's poses.

    Args:
        before: poses of the upright images.
        after: poses of the moved images.
        classes: class of each image, whose capsule's pose it is.
        half: the images to which maps are fitted.
        seed: seed of the bootstrap.
    """
    errors: list[Float[np.ndarray, "4 n"]] = [np.zeros((4, 0))]
    for fitted, held_out in _by_class(classes, half):
        change = after - before
        predicted = ridge.fit(before[fitted], change[fitted])(before[held_out])
        guesses = (
            predicted,
            np.zeros_like(predicted),
            change[fitted].mean(axis=0),
            after[fitted].mean(axis=0) - before[held_out],
        )
        errors.append(
            np.stack([np.sum((change[held_out] - x) ** 2, axis=1) for x in guesses])
        )
    linear, none, mean, mean_pose = np.concatenate(errors, axis=1)
    return Moved(
        change=share(linear, none, seed),
        mean=share(mean, none, seed),
        beyond_mean=share(linear, mean, seed),
        pose=share(linear, mean_pose, seed),
        images=len(linear),
    )


def of_amount(
    views: Float[np.ndarray, "A N Q"],
    amounts: Float[np.ndarray, " A"],
    classes: Int[np.ndarray, " N"],
    half: Bool[np.ndarray, " N"],
    seed: int = 0,
) -> R2:
    """How well a linear function of the pose tells the amount of a movement.

    Args:
        views: poses of each image after movements by all amounts.
        amounts: amount of each movement.
        classes: class of each image.
        half: the images to which the functions are fitted.
        seed: seed of the bootstrap.
    """
    errors: list[Float[np.ndarray, " n"]] = [np.zeros(0)]
    for fitted, held_out in _by_class(classes, half):
        by_image = views.swapaxes(0, 1)
        targets = np.tile(amounts, len(fitted))[:, None]
        predict = ridge.fit(
            np.concatenate(by_image[fitted]), targets, views=len(amounts)
        )
        found = predict(np.concatenate(by_image[held_out])).reshape(-1, len(amounts))
        errors.append(np.sum((found - amounts) ** 2, axis=1))
    error = np.concatenate(errors)
    spread = np.sum((amounts - amounts.mean()) ** 2)
    return share(error, np.full_like(error, spread), seed)


def _by_class(
    classes: Int[np.ndarray, " N"], half: Bool[np.ndarray, " N"]
) -> Iterator[tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]]]:
    """Numbers of the images to fit to and to test on, of each class with enough."""
    for label in np.unique(classes):
        fitted = np.flatnonzero((classes == label) & half)
        held_out = np.flatnonzero((classes == label) & ~half)
        if len(fitted) >= LEAST_IMAGES and len(held_out):
            yield fitted, held_out


def share(
    error: Float[np.ndarray, " n"], baseline: Float[np.ndarray, " n"], seed: int = 0
) -> R2:
    """R2, one less the ratio of two sums of squared errors, with its interval.

    Args:
        error: squared error of each image.
        baseline: that of the baseline.
        seed: seed of the bootstrap over images.
    """
    if not baseline.sum() > 0:
        return R2(np.nan, np.nan, np.nan)
    sums = _resamples(len(error), seed) @ np.stack([error, baseline], axis=1)
    errors, baselines = sums.T
    drawn = 1 - errors / np.where(baselines > 0, baselines, np.nan)
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return R2(float(1 - error.sum() / baseline.sum()), float(low), float(high))


@functools.lru_cache(maxsize=2)
def _resamples(count: int, seed: int) -> Float[np.ndarray, "R n"]:
    """How often each of some images is in each bootstrap sample of as many."""
    drawn = np.random.default_rng(seed).integers(count, size=(_RESAMPLES, count))
    return np.stack([np.bincount(one, minlength=count) for one in drawn]).astype(float)
