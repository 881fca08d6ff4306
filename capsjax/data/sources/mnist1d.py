"""MNIST-1D: signals of 40 samples that are made by formulas, and need no download.

A template for each digit is stretched, scaled, shifted, sheared and made noisy. 5,000
signals, of which 4,000 train; a linear classifier gets 32 % of the others right, a CNN
94 % and people 96 %.

References:
    Greydanus and Kobak 2024, "Scaling Down Deep Learning with MNIST-1D", section 2 and
    the released package mnist1d 0.0.2, whose default data these are, number by number.
"""

import numpy as np
import numpy.typing as npt

from capsjax.data.datasets import Dataset, ImageSet, empty_like
from capsjax.data.source import Source
from capsjax.errors import UserError

NUM_TRAIN, NUM_TEST = 4_000, 1_000
LENGTH = 40
"""Samples of each signal."""

_TEMPLATES = (
    (5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5),
    (5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5),
    (5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5),
    (5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5),
    (5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5),
    (5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5),
    (5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5),
    (5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5),
)
_PADDED = 72  # Samples of a template of 12 and of the longest padding.
_SEED = 42


def load(source: Source, data_dir: str | None = None) -> Dataset:
    """Makes the signals, the same in every run.

    A signal is an image of one row with two channels, as in
    `capsjax.data.sources.spoken_digits`: what is positive, and the magnitude of what is
    negative. White is the largest magnitude of all signals.

    Args:
        source: the data set has no settings.
        data_dir: unused; the signals are made here.

    Returns:
        Images uint8 [N, 1, 40, 2] and ten classes.

    Raises:
        UserError: an image size is given.
    """
    del data_dir
    if source.image_size:
        raise UserError("mnist1d are signals, which have no image_size; leave it out")
    signals, labels = _made(np.random.RandomState(_SEED))
    levels = np.rint(signals * (255 / np.abs(signals).max()))
    halves = np.stack([np.maximum(levels, 0), np.maximum(-levels, 0)], axis=-1)
    whole = ImageSet(halves.astype(np.uint8)[:, None], labels.astype(np.int32))
    train = whole.take(np.arange(NUM_TRAIN))
    return Dataset(
        name="mnist1d",
        train=train,
        validation=empty_like(train),
        test=whole.take(np.arange(NUM_TRAIN, NUM_TRAIN + NUM_TEST)),
        class_names=tuple("0123456789"),
        provenance=f"MNIST-1D, {len(whole)} signals made here with the seed {_SEED}",
        content=f"MNIST-1D with the seed {_SEED}",
    )


def _made(
    rng: np.random.RandomState,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Signals [N, LENGTH] of mean 0 and standard deviation 1, and their digits.

    Random numbers are drawn in the package's order, with the generator that it uses.
    """
    templates = np.array(_TEMPLATES)
    templates -= templates.mean(axis=1, keepdims=True)
    templates /= templates.std(axis=1, keepdims=True)
    templates = (templates - templates[:, :1]) / 6
    labels = np.repeat(np.arange(10), (NUM_TRAIN + NUM_TEST) // 10)
    signals = np.stack([_transformed(templates[label], rng) for label in labels])
    order = rng.permutation(len(labels))
    signals, labels = signals[order], labels[order]
    return (signals - signals.mean()) / signals.std(), labels


def _transformed(
    template: npt.NDArray[np.float64], rng: np.random.RandomState
) -> npt.NDArray[np.float64]:
    # Imported here since it takes long, which other data sets need not spend.
    from scipy.ndimage import gaussian_filter

    padding = 36 + int(rng.rand() * 25)
    # Never exactly 0 on the template, so that zeros are what is beside it.
    x = np.concatenate([template + 1e-8, np.zeros(padding)])
    x = _resampled(x, _PADDED) * (1 + 0.4 * (rng.rand() - 0.5))
    x = np.roll(x, rng.choice(48))
    noise = gaussian_filter(0.25 * rng.randn(_PADDED), 2)
    x = np.where(x != 0, x, noise) + 2e-2 * rng.randn(_PADDED)
    slope = 0.75 * (rng.rand() - 0.5)
    return _resampled(x - slope * np.linspace(-0.5, 0.5, _PADDED), LENGTH)


def _resampled(x: npt.NDArray[np.float64], length: int) -> npt.NDArray[np.float64]:
    return np.interp(np.linspace(0, 1, length), np.linspace(0, 1, len(x)), x)
