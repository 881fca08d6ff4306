"""Data sets, decoded into memory and batched by NumPy; nothing here imports JAX.

To add a data set, write a file with a function `load(source, data_dir) -> Dataset` and
add a line to `DATASETS`; or, if it is made from another, a function
`derive(base: Dataset, source: Source) -> Dataset` and a line in `DERIVED`.
"""

import dataclasses
import difflib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from capsjax import fields
from capsjax.data.batching import TrainBatches, eval_batches
from capsjax.data.class_warnings import class_warnings
from capsjax.data.datasets import Dataset, ImageSet, resize
from capsjax.data.derived import affnist, expanded, extruded, multimnist
from capsjax.data.known import Sizes, known_sizes
from capsjax.data.source import FROM_PATH, Source
from capsjax.data.sources import (
    digits,
    faces,
    folder,
    mnist1d,
    npz,
    smallnorb,
    spoken_digits,
    tfds_sets,
)
from capsjax.data.splits import SPLIT_SEED, carve, few_of_each_class
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

_OWN_DATA: dict[str, Callable[[Source, str | None], Dataset]] = {
    "folder": folder.load,
    "npz": npz.load,
}
"""The user's own images, read from a `path`."""

DATASETS: dict[str, Callable[[Source, str | None], Dataset]] = {
    "digits": digits.load,
    "mnist": functools.partial(tfds_sets.load, "mnist"),
    "fashion_mnist": functools.partial(tfds_sets.load, "fashion_mnist"),
    "kmnist": functools.partial(tfds_sets.load, "kmnist"),
    "cifar10": functools.partial(tfds_sets.load, "cifar10"),
    "svhn_cropped": functools.partial(tfds_sets.load, "svhn_cropped"),
    "smallnorb": smallnorb.load,
    "spoken_digits": spoken_digits.load,
    "mnist1d": mnist1d.load,
    "faces": faces.load,
    **_OWN_DATA,
}
"""Loaders by name. `load` splits their training set, unless they return validation
images, too."""

DERIVED: dict[str, Callable[[Dataset, Source], Dataset]] = {
    "multimnist": multimnist.derive,
    "expanded": expanded.derive,
    "affnist": affnist.derive,
    "extruded": extruded.derive,
}
"""Functions that make a data set from another, `Source.base`, after its split."""

# Settings that only some data sets have, and what the others lack.
_OF_SOME = (
    ("held_out_speaker", "speakers", ("spoken_digits",)),
    ("novel_viewpoint", "viewpoints", ("smallnorb", "extruded")),
    ("scrambled_share", "faces", ("faces",)),
    ("without_doodles", "faces", ("faces",)),
)


def load(name: str, *, data_dir: str | None = None, **settings: Any) -> Dataset:
    """Loads a data set into memory.

    Args:
        name: one of `DATASETS` or `DERIVED`.
        data_dir: the TensorFlow Datasets directory of the data sets that
            `capsjax.data.prepare` makes; None is TFDS's own default, the environment
            variable TFDS_DATA_DIR or else ~/tensorflow_datasets.
        **settings: other fields of `Source`, such as ``path`` or ``image_size``;
            ``validation_examples`` is 0 by default.

    Returns:
        The data set; `validation` is empty if ``validation_examples`` is 0 and own
        images have no validation part.

    Raises:
        UserError: an unknown name, a setting out of range, or data that are missing
            or damaged.
    """
    source = Source(name=name, **({"validation_examples": 0} | settings))
    fields.check(source, "config.data")
    for setting, what, own in _OF_SOME:
        if (value := getattr(source, setting)) and name not in own:
            raise UserError(
                f"{setting} is {value!r}, but {name} has no {what}; leave it out or "
                f"choose the data set {' or '.join(own)}"
            )
    data_dir = str(Path(data_dir).expanduser().absolute()) if data_dir else None
    if name in DERIVED:
        if source.base not in DATASETS:
            raise UserError(
                f"{name} cannot be made from config.data.base {source.base!r}; "
                f"choose one of {', '.join(DATASETS)}"
            )
        base = load(
            source.base,
            data_dir=data_dir,
            path=source.path,
            validation_examples=source.validation_examples,
            image_size=source.image_size,
            parts=source.parts,
            train_per_class=source.train_per_class,
            train_choice=source.train_choice,
        )
        return DERIVED[name](base, source)
    if name not in DATASETS:
        known = [*DATASETS, *DERIVED]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UserError(f"unknown data set {name!r}; {hint}known: {', '.join(known)}")
    if source.path and name not in FROM_PATH:
        raise UserError(
            f"the data set {name} takes no path (got {source.path}); to read your own "
            f"images choose the data set {' or '.join(_OWN_DATA)}"
        )
    dataset = DATASETS[name](source, data_dir)
    train, validation = dataset.train, dataset.validation
    if not len(validation):
        try:
            train, validation = carve(train, source.validation_examples, SPLIT_SEED)
        except UserError as error:
            raise UserError(
                f"validation_examples={source.validation_examples} of {name}: {error}"
            ) from None
    if count := source.train_per_class:
        train = few_of_each_class(train, count, source.train_choice)
        few = f"; {count} training images of each class, choice {source.train_choice}"
        dataset = dataclasses.replace(
            dataset,
            provenance=dataset.provenance + few,
            content=dataset.content + few,
        )
    parts: dict[str, Any] = dataclasses.replace(
        dataset, train=train, validation=validation
    ).parts()
    if source.image_size:
        parts = {key: resize(part, source.image_size) for key, part in parts.items()}
    loaded = dataclasses.replace(dataset, data_dir=data_dir, **parts)
    if name not in _OWN_DATA:
        return loaded
    return dataclasses.replace(
        loaded, warnings=(*loaded.warnings, *class_warnings(loaded))
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
