"""A data set in one NPZ file of NumPy arrays."""

import dataclasses
import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from capsjax.data.datasets import Dataset, ImageSet, as_image_set, empty_like
from capsjax.data.names import in_words
from capsjax.data.pixel_range import check_range
from capsjax.data.source import Source
from capsjax.data.splits import carve_test, content_key
from capsjax.errors import UserError

_WHOLE_KEYS = ("images", "labels")


class _Keys(NamedTuple):
    """Names of the arrays of divided data: images and labels of each part."""

    train: tuple[str, str]
    test: tuple[str, str]
    validation: tuple[str, str]


_KERAS = _Keys(("x_train", "y_train"), ("x_test", "y_test"), ("x_val", "y_val"))
_MEDMNIST = _Keys(
    ("train_images", "train_labels"),
    ("test_images", "test_labels"),
    ("val_images", "val_labels"),
)


def load(source: Source, data_dir: str | None = None) -> Dataset:
    """Loads an NPZ file.

    It holds either x_train, y_train, x_test and y_test, as Keras's data sets do, or
    train_images, train_labels, test_images and test_labels, as MedMNIST's, or images
    and labels, of which about a fifth is held out as the test set, the same in every
    run (see `capsjax.data.splits.carve_test`). Validation images, x_val and y_val or
    val_images and val_labels, are the validation set. An optional array class_names of
    strings names the classes; without it they are named by their numbers, and every
    class needs training examples.

    Args:
        source: `path` is the file. Its images are uint8 [N, H, W, C] or [N, H, W], or
            any numbers if `max_value` is given; its labels are integers [N] or [N, 1]
            counted from 0.
        data_dir: unused.

    Returns:
        The data set, images uint8 [H, W, C].

    Raises:
        UserError: no such file, not an NPZ file, other keys, or arrays of another
            shape, dtype or range; or images of nearly one shade, without `max_value`.
    """
    del data_dir
    path = source.own_path("your NPZ file")
    arrays = _read(path)
    note = ""

    def image_set(images: str, labels: str, what: str) -> ImageSet:
        made = as_image_set(arrays[images], arrays[labels], what, source.max_value)
        if not source.max_value and len(made):
            check_range(made.images, what, peak=int(made.images.max()), full=255)
        if source.split == "random":
            return made
        keys = [content_key(image.tobytes()) for image in arrays[images]]
        return dataclasses.replace(made, keys=np.array(keys, np.uint64))

    validation = None
    for keys in (_KERAS, _MEDMNIST):
        if not {*keys.train, *keys.test} <= set(arrays):
            continue
        train = image_set(*keys.train, f"{path}, train")
        test = image_set(*keys.test, f"{path}, test")
        if source.parts == "given" and set(keys.validation) <= set(arrays):
            validation = image_set(*keys.validation, f"{path}, validation")
            note = f"; its own {len(validation)} validation images"
        break
    else:
        train, test = carve_test(image_set("images", "labels", str(path)), str(path))
        note = "; about a fifth held out here as the test set"

    if "class_names" in arrays:
        names = arrays["class_names"]
        if names.ndim != 1 or names.dtype.kind not in "SU":
            raise UserError(
                f"{path}: class_names has dtype {names.dtype} and shape {names.shape}; "
                "store one string per class"
            )
        class_names = tuple(str(name) for name in names.astype(str))
    else:
        present = np.unique(train.labels)
        if len(present) and present[-1] != len(present) - 1:
            absent = np.flatnonzero(present != np.arange(len(present)))[0]
            raise UserError(
                f"{path}: training labels reach {present[-1]} but class {absent} has "
                "no example; number the classes 0, 1, ... without gaps, or store "
                "class_names"
            )
        class_names = tuple(str(label) for label in range(len(present)))

    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        return Dataset(
            name="npz",
            train=train,
            validation=empty_like(train) if validation is None else validation,
            test=test,
            class_names=class_names,
            provenance=f"NPZ file {path.name}, sha256 {digest[:16]}{note}",
            content=f"sha256 {digest}",
            title=in_words("npz", path=str(path)),
        )
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _read(path: Path) -> dict[str, np.ndarray]:
    """Reads the arrays that are wanted, having checked that they are there."""
    if not path.is_file():
        raise UserError(f"no NPZ file {path}")
    divided = [(*keys.train, *keys.test) for keys in (_KERAS, _MEDMNIST)]
    wanted = " or ".join(map(", ".join, (*divided, _WHOLE_KEYS)))
    try:
        # Opened here since NumPy doesn't close a file that it cannot read.
        with path.open("rb") as file:
            # allow_pickle=False: a pickle could run any code.
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                raise ValueError("it is an NPY file, a single array")
            keys = set(loaded.files)
            others = (*_KERAS.validation, *_MEDMNIST.validation, "class_names")
            for needed in (*divided, _WHOLE_KEYS):
                if set(needed) <= keys:
                    return {
                        key: loaded[key] for key in (*needed, *others) if key in keys
                    }
    # NumPy meets a file that it cannot read with several kinds of error.
    except Exception as error:
        raise UserError(
            f"cannot read {path} as an NPZ file ({error}); write it by np.savez with "
            f"the arrays {wanted}, none of them of dtype object"
        ) from error
    raise UserError(
        f"{path} has the arrays {', '.join(sorted(keys)) or '(none)'}; wanted {wanted}"
    )
