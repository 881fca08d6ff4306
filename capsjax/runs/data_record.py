"""The data of a run: recorded in its folder, and compared before the run is used again.

``data.json`` in the run's folder holds the classes, the shape and number of the images,
what identifies their content (see `capsjax.data.Dataset.content`), their title, and
where they were: the TensorFlow Datasets directory, or the path of own images. Runs of
earlier versions have no such file, and are not compared.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from capsjax import fields
from capsjax.data import Dataset, names
from capsjax.errors import UserError
from capsjax.runs.folder import RunFolder, write_json


def record(folder: RunFolder, data: Dataset, path: str = "") -> None:
    """Writes ``data.json``; ``path`` is that of own images."""
    own = {"path": str(Path(path).expanduser().absolute())} if path else {}
    others = {"data_dir": data.data_dir, "title": data.title, **own}
    write_json(folder.data, _described(data) | others)


def recorded_data_dir(folder: RunFolder) -> str | None:
    """Returns the TensorFlow Datasets directory of the run's data, if it is known."""
    return (_load(folder) or {}).get("data_dir")


def recorded_path(folder: RunFolder) -> str | None:
    """Returns the absolute path of the run's own images, if it is known."""
    return (_load(folder) or {}).get("path")


def title(folder: RunFolder) -> str:
    """Returns the name in words of the run's data.

    Raises:
        UserError: a file of the run cannot be read.
    """
    if recorded := (_load(folder) or {}).get("title"):
        return recorded
    source = folder.load_config().data
    return names.in_words(source.name, source.base, path=source.path)


def recorded_sizes(folder: RunFolder) -> tuple[tuple[int, int, int], int]:
    """Returns the shape (H, W, C) of the run's images and its number of classes.

    Raises:
        UserError: the run is of an early version, which did not record it.
    """
    found = _recorded(folder)
    height, width, channels = found["image_shape"]
    return (height, width, channels), len(found["class_names"])


def recorded_classes(folder: RunFolder) -> tuple[str, ...]:
    """Returns the names of the run's classes, in the order of their numbers.

    Raises:
        UserError: the run is of an early version, which did not record them.
    """
    return tuple(_recorded(folder)["class_names"])


def check_can_move(folder: RunFolder) -> None:
    """Refuses another path of a run's own images where nothing can tell them apart.

    Raises:
        UserError: the run has no own images, or is of an early version.
    """
    path = folder.load_config().data.path
    if not path:
        raise UserError(
            f"the run in {folder.path} was not trained on own images; leave "
            "--data_path out"
        )
    if _load(folder) is None:
        raise UserError(
            f"{folder.path} was trained by a version that did not record its data, so "
            f"nothing can tell whether these are the same; move them back to {path}"
        )


def is_of(folder: RunFolder, data: Dataset) -> bool:
    """Whether data are known to be those of the run.

    Raises:
        UserError: a file of the run cannot be read.
    """
    before, now = _load(folder), _described(data)
    return before is not None and all(before[name] == now[name] for name in now)


def check_same(folder: RunFolder, data: Dataset) -> None:
    """Refuses data other than those of the run.

    Raises:
        UserError: classes, shape, number or content of the images have changed since
            the run started.
    """
    before, now = _load(folder), _described(data)
    if before is None:
        return
    differing = [name for name in now if before[name] != now[name]]
    if differing != ["content"]:  # The rest says it better.
        differing = [name for name in differing if name != "content"]
    if differing:
        raise UserError(
            f"the data are not those of the run in {folder.path}: "
            f"{'; '.join(_difference(name, before, now) for name in differing)}; "
            "restore the data, or train a new run"
        )


def is_same(folder: RunFolder, other: RunFolder) -> bool:
    """Whether two runs are known to have the same data, all of it.

    Their settings of the data are the same, and so is what identified the content when
    they started. Data may be the same in the parts that matter where this is False.

    Raises:
        UserError: a file of a run cannot be read.
    """
    before, now = _load(folder), _load(other)
    if before is None or now is None:
        return False
    settings = [fields.flatten(one.load_config().data) for one in (folder, other)]
    return settings[0] == settings[1] and before["content"] == now["content"]


def check_fits(folder: RunFolder, data: Dataset) -> None:
    """Refuses data whose images or class numbers do not fit the run's model.

    Raises:
        UserError: other image shapes or classes than the run's, or another order of
            them.
    """
    before, now = _load(folder), _described(data)
    for name in ("image_shape", "class_names"):
        if before is not None and before[name] != now[name]:
            raise UserError(
                f"{data.name} does not suit the run in {folder.path}: "
                f"{_difference(name, before, now)}"
            )


def fitted(folder: RunFolder, data: Dataset) -> Dataset:
    """Fits other data than the run's to its classes.

    Args:
        folder: the run's folder.
        data: images of the same shape, with some or all of the run's classes, in any
            order.

    Returns:
        The data with the run's classes: its labels are the run's numbers of the classes
        that have the same names.

    Raises:
        UserError: another shape, or a class that the run does not have.
    """
    before = _load(folder)
    if before is None:
        return data
    classes = before["class_names"]
    if unknown := [name for name in data.class_names if name not in classes]:
        raise UserError(
            f"{data.name} does not suit the run in {folder.path}: it has the classes "
            f"{_listed(unknown)}, which the run does not know; the run's classes are "
            f"{_listed(classes)}"
        )
    numbers = [classes.index(name) for name in data.class_names]
    renumbered = data.with_classes(classes, np.array(numbers, np.int32))
    check_fits(folder, renumbered)
    return renumbered


def _described(data: Dataset) -> dict[str, Any]:
    return {
        "class_names": list(data.class_names),
        "image_shape": list(data.image_shape),
        "examples": {name: len(part) for name, part in data.parts().items()},
        "content": data.content,
    }


def _recorded(folder: RunFolder) -> dict[str, Any]:
    found = _load(folder)
    if found is None:
        raise UserError(
            f"{folder.path} was trained by a version that did not record its data; "
            "train it again"
        )
    return found


def _load(folder: RunFolder) -> dict[str, Any] | None:
    try:
        return json.loads(folder.data.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {folder.data}: {error}") from error


def _difference(name: str, before: dict[str, Any], now: dict[str, Any]) -> str:
    """Says how an entry of ``data.json`` has changed."""
    old, new = before[name], now[name]
    if name == "image_shape":
        return f"images were {_by(old)}, and are now {_by(new)}"
    if name == "examples":
        return ", ".join(
            f"{new[part]:,} {part} images in place of {old[part]:,}"
            for part in new
            if new[part] != old[part]
        )
    if name == "content":
        return f"the same number of images, but {new[:19]} in place of {old[:19]}"
    return f"the classes were {_listed(old)}, and are now {_listed(new)}"


def _by(shape: list[int]) -> str:
    height, width, channels = shape
    return f"{width}x{height} with {channels} channel{'s' * (channels != 1)}"


def _listed(names: list[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return shown + f" and {len(names) - most} more" * (len(names) > most)
