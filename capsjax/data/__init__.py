"""Data sets, decoded into memory and batched by NumPy; nothing here imports JAX.

To add a data set, write one file with a function `load(source: Source) -> Dataset` and
add one line to `DATASETS`.
"""

import dataclasses
import difflib
import functools
from collections.abc import Callable
from typing import Any

from capsjax.data import digits, folder, npz, tfds_sets
from capsjax.data.batching import TrainBatches, eval_batches
from capsjax.data.datasets import (
    SPLIT_SEED,
    Dataset,
    ImageSet,
    Source,
    carve,
    resize,
)
from capsjax.errors import UserError

__all__ = [
    "DATASETS",
    "Dataset",
    "ImageSet",
    "Source",
    "TrainBatches",
    "carve",
    "eval_batches",
    "load",
]

_OWN_DATA: dict[str, Callable[[Source], Dataset]] = {
    "folder": folder.load,
    "npz": npz.load,
}
"""The data sets that are read from a `path`."""

DATASETS: dict[str, Callable[[Source], Dataset]] = {
    "digits": digits.load,
    "mnist": functools.partial(tfds_sets.load, "mnist"),
    "fashion_mnist": functools.partial(tfds_sets.load, "fashion_mnist"),
    "kmnist": functools.partial(tfds_sets.load, "kmnist"),
    "cifar10": functools.partial(tfds_sets.load, "cifar10"),
    **_OWN_DATA,
}
"""Loaders by name. They return the whole training set; `load` splits it."""


def load(
    name: str,
    *,
    data_dir: str | None = None,
    path: str | None = None,
    validation_examples: int = 0,
    image_size: int = 0,
    **derivation: Any,
) -> Dataset:
    """Loads a data set into memory.

    Args:
        name: one of `DATASETS`.
        data_dir: the TensorFlow Datasets directory of mnist, fashion_mnist, kmnist and
            cifar10; None is TFDS's own default, the environment variable TFDS_DATA_DIR
            or else ~/tensorflow_datasets.
        path: the image folder of "folder", the file of "npz".
        validation_examples: how many training examples to hold out for validation,
            each class in proportion; the choice is the same in every run.
        image_size: side in pixels to which all images are resized, bilinear and
            antialiased; 0 keeps them as stored.
        **derivation: how a data set is made from another; further fields of `Source`.

    Returns:
        The data set; `validation` is empty if `validation_examples` is 0.

    Raises:
        UserError: an unknown name, an argument out of range, or data that are missing
            or not as they should be.
    """
    if name not in DATASETS:
        close = difflib.get_close_matches(name, DATASETS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UserError(
            f"unknown data set {name!r}; {hint}known: {', '.join(DATASETS)}"
        )
    if path and name not in _OWN_DATA:
        raise UserError(
            f"the data set {name} takes no path (got {path}); to read your own images "
            f"choose the data set {' or '.join(_OWN_DATA)}"
        )
    if validation_examples < 0:
        raise UserError(
            f"validation_examples is {validation_examples}; choose 0 or more"
        )
    if image_size < 0:
        raise UserError(
            f"image_size is {image_size}; give a side in pixels, or 0 to keep images "
            "as they are stored"
        )

    dataset = DATASETS[name](Source(data_dir, path or None, image_size, **derivation))
    try:
        train, validation = carve(dataset.train, validation_examples, SPLIT_SEED)
    except UserError as error:
        raise UserError(
            f"validation_examples={validation_examples} of {name}: {error}"
        ) from None
    if image_size:
        train, validation, test = (
            resize(part, image_size) for part in (train, validation, dataset.test)
        )
    else:
        test = dataset.test
    return dataclasses.replace(dataset, train=train, validation=validation, test=test)
