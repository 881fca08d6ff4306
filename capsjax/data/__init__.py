"""Data sets, decoded into memory and batched by NumPy; nothing here imports JAX.

To add a data set, write one file with a function `load(source: Source) -> Dataset` and
add one line to `DATASETS`; or, if it is made from another, a function
`derive(base: Dataset, source: Source) -> Dataset` and a line in `DERIVED`.
"""

import dataclasses
import difflib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from capsjax.data.batching import TrainBatches, eval_batches
from capsjax.data.datasets import Dataset, ImageSet, Source, resize
from capsjax.data.derived import affnist, expanded, multimnist
from capsjax.data.known import Sizes, known_sizes
from capsjax.data.sources import digits, folder, npz, smallnorb, tfds_sets
from capsjax.data.splits import SPLIT_SEED, SPLITS, carve
from capsjax.errors import UserError

__all__ = [
    "DATASETS",
    "DERIVED",
    "Dataset",
    "ImageSet",
    "Sizes",
    "Source",
    "TrainBatches",
    "carve",
    "eval_batches",
    "load",
    "sizes",
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
    "svhn_cropped": functools.partial(tfds_sets.load, "svhn_cropped"),
    "smallnorb": smallnorb.load,
    **_OWN_DATA,
}
"""Loaders by name. They return the whole training set; `load` splits it."""

DERIVED: dict[str, Callable[[Dataset, Source], Dataset]] = {
    "multimnist": multimnist.derive,
    "expanded": expanded.derive,
    "affnist": affnist.derive,
}
"""Functions that make a data set from another, `Source.base`, after its split."""


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
        name: one of `DATASETS` or `DERIVED`.
        data_dir: the TensorFlow Datasets directory of the data sets that
            `capsjax.data.prepare` makes; None is TFDS's own default, the environment
            variable TFDS_DATA_DIR or else ~/tensorflow_datasets.
        path: the image folder of "folder", the file of "npz".
        validation_examples: the number of training examples to hold out for validation,
            each class in proportion; the choice is the same in every run.
        image_size: side in pixels to which all images are resized, bilinear and
            antialiased; 0 keeps them as stored.
        **derivation: further fields of `Source`, for data sets made from another.

    Returns:
        The data set; `validation` is empty if `validation_examples` is 0.

    Raises:
        UserError: an unknown name, an argument out of range, or data that are missing
            or damaged.
    """
    data_dir = str(Path(data_dir).expanduser().absolute()) if data_dir else None
    source = Source(data_dir, path or None, image_size, **derivation)
    if name in DERIVED:
        if source.base not in DATASETS:
            raise UserError(
                f"{name} cannot be made from config.data.base {source.base!r}; "
                f"choose one of {', '.join(DATASETS)}"
            )
        base = load(
            source.base,
            data_dir=data_dir,
            path=path,
            validation_examples=validation_examples,
            image_size=image_size,
        )
        return dataclasses.replace(DERIVED[name](base, source), data_dir=data_dir)
    if name not in DATASETS:
        known = [*DATASETS, *DERIVED]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UserError(f"unknown data set {name!r}; {hint}known: {', '.join(known)}")
    if path and name not in _OWN_DATA:
        raise UserError(
            f"the data set {name} takes no path (got {path}); to read your own images "
            f"choose the data set {' or '.join(_OWN_DATA)}"
        )
    if (viewpoint := derivation.get("novel_viewpoint")) and name != "smallnorb":
        raise UserError(
            f"novel_viewpoint is {viewpoint!r}, but {name} has no viewpoints; leave it "
            "out or choose the data set smallnorb"
        )
    if source.split not in SPLITS:
        raise UserError(f"split is {source.split!r}; choose {' or '.join(SPLITS)}")
    if validation_examples < 0:
        raise UserError(
            f"validation_examples is {validation_examples}; choose 0 or more"
        )
    if image_size < 0:
        raise UserError(
            f"image_size is {image_size}; give a side in pixels, or 0 to keep the "
            "stored size"
        )

    dataset = DATASETS[name](source)
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
    return dataclasses.replace(
        dataset, train=train, validation=validation, test=test, data_dir=data_dir
    )


def sizes(name: str, **arguments: Any) -> Sizes:
    """Sizes of the images and classes that `load` returns with these arguments.

    The data set is loaded only if its sizes are not known without.

    Raises:
        UserError: as `load`.
    """
    found = known_sizes(
        name, arguments["image_size"], arguments["base"], arguments["canvas"]
    )
    if found is None:
        loaded = load(name, **arguments)
        found = Sizes(loaded.image_shape, loaded.num_classes)
    return found
