"""A data set in one NPZ file of NumPy arrays."""

import hashlib
from pathlib import Path

import numpy as np

from capsjax.data.datasets import (
    Dataset,
    Source,
    as_image_set,
    carve_test,
    empty_like,
)
from capsjax.errors import UserError

_SPLIT_KEYS = ("x_train", "y_train", "x_test", "y_test")
_WHOLE_KEYS = ("images", "labels")


def load(source: Source) -> Dataset:
    """Loads an NPZ file.

    It holds either x_train, y_train, x_test and y_test, as Keras's data sets do, or
    images and labels, of which a fifth of each class is held out as the test set, the
    same in every run. An optional array class_names of strings names the classes;
    without it they are named by their numbers, and none may lack training examples.

    Args:
        source: `path` is the file. Its images are uint8 [N, H, W, C] or [N, H, W], its
            labels integers [N] or [N, 1] counted from 0.

    Returns:
        The data set, images uint8 [H, W, C].

    Raises:
        UserError: no such file, not an NPZ file, other keys, or arrays of another
            shape, dtype or range.
    """
    path = source.own_path("your NPZ file")
    arrays = _read(path)
    note = ""
    if set(_SPLIT_KEYS) <= set(arrays):
        train = as_image_set(arrays["x_train"], arrays["y_train"], f"{path}, train")
        test = as_image_set(arrays["x_test"], arrays["y_test"], f"{path}, test")
    else:
        whole = as_image_set(arrays["images"], arrays["labels"], str(path))
        train, test = carve_test(whole, str(path))
        note = "; a fifth of each class held out here as the test set"

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
            validation=empty_like(train),
            test=test,
            class_names=class_names,
            provenance=f"NPZ file {path.name}, sha256 {digest[:16]}{note}",
        )
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _read(path: Path) -> dict[str, np.ndarray]:
    """Reads the arrays that are wanted, having checked that they are there."""
    if not path.is_file():
        raise UserError(f"no NPZ file {path}")
    wanted = f"{', '.join(_SPLIT_KEYS)} or {', '.join(_WHOLE_KEYS)}"
    try:
        # Opened here since NumPy doesn't close a file that it cannot read.
        with path.open("rb") as file:
            # allow_pickle=False: a pickle could run any code.
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                raise ValueError("it is an NPY file, a single array")
            keys = set(loaded.files)
            for needed in (_SPLIT_KEYS, _WHOLE_KEYS):
                if set(needed) <= keys:
                    return {
                        key: loaded[key]
                        for key in (*needed, "class_names")
                        if key in keys
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
