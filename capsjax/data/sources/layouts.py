"""Which files of an image folder belong to which part and class."""

import collections
import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from capsjax.data import parts
from capsjax.data.image_files import NotRead, files_in
from capsjax.data.source import check_name
from capsjax.data.sources import label_tables
from capsjax.data.sources.label_tables import Row
from capsjax.errors import UserError

WANTED = "ROOT/train/CLASS/*.png with ROOT/test/CLASS/*.png, or ROOT/CLASS/*.png"
"""The forms that most folders have, for error texts."""

_UNSORTED = "images"
"""Folder in which Tiny ImageNet keeps the images of a part without class folders."""


class Labelled(NamedTuple):
    """An image file and its class.

    Attributes:
        file: the file.
        label: name of the class.
        identity: text that names the file, and its part and class, wherever the folder
            lies.
    """

    file: Path
    label: str
    identity: str


@dataclasses.dataclass(frozen=True)
class Layout:
    """The files of an image folder.

    Attributes:
        class_names: the classes, in the order of their numbers.
        files: the files of each part that is given; at least those of
            `capsjax.data.parts.TRAIN`.
        sorted_into: the folder of class folders of the training images, in which no
            class may be empty; None if a table names the classes.
        not_used: names of folders that are no part, or have no labels.
        unlabelled: the one of them that is the test part, or "".
    """

    class_names: tuple[str, ...]
    files: dict[str, list[Labelled]]
    sorted_into: Path | None
    not_used: tuple[str, ...] = ()
    unlabelled: str = ""


def find(path: Path, not_read: NotRead, *, given: bool) -> Layout:
    """Finds the files.

    Args:
        path: an image folder, or a table of file names and labels.
        not_read: receives what lies there besides.
        given: whether all parts and tables are looked for, as with
            ``config.data.parts`` "given"; else what earlier versions knew.

    Raises:
        UserError: no such folder, another layout, or classes of a part that the
            training part does not have.
        OSError: a folder cannot be read.
    """
    if path.is_file() and path.suffix.lower() in label_tables.SUFFIXES:
        return _of_table(path, not_read)
    if not path.is_dir():
        raise UserError(
            f"no folder {path}; wanted {WANTED}, or a CSV file of file names and labels"
        )
    if given and (table := label_tables.metadata_in(path)):
        return _of_table(table, not_read)
    folders = folders_in(path)
    named = parts.find(folders, given=given, where=str(path))
    if parts.TRAIN in named and len(named) > 1:
        return _of_parts(path, folders, named, not_read, given=given)
    for part in (parts.TRAIN, parts.TEST):
        if part in named and folders_in(path / named[part]):
            others = "a test or validation folder" if part == parts.TRAIN else "train"
            raise UserError(
                f"{path} has a folder {named[part]} of classes but not {others}; "
                f"wanted {WANTED}"
            )
    classes = _classes(path)
    if given and len(classes) == 1 and (tables := _tables(path)):
        raise UserError(
            f"{path} has one class folder, {classes[0]}, and the table "
            f"{tables[0].name}; to read the labels from it, set config.data.path to "
            f"{tables[0]}"
        )
    return Layout(tuple(classes), {parts.TRAIN: _sorted(path, path, not_read)}, path)


def folders_in(parent: Path) -> list[str]:
    """Names of the folders in `parent`, sorted; hidden ones left out."""
    found = sorted(
        entry.name
        for entry in parent.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    )
    for name in found:
        check_name(parent / name)
    return found


def _classes(parent: Path) -> list[str]:
    if found := folders_in(parent):
        return found
    hints = [
        f"; to read the labels from {table}, set config.data.path to it"
        for table in _tables(parent)
    ]
    raise UserError(
        f"no class folders in {parent}; wanted {WANTED}{''.join(hints[:1])}"
    )


def _tables(folder: Path) -> list[Path]:
    suffixes = label_tables.SUFFIXES
    return sorted(x for x in folder.iterdir() if x.suffix.lower() in suffixes)


def _of_parts(
    root: Path,
    folders: Sequence[str],
    named: dict[str, str],
    not_read: NotRead,
    *,
    given: bool,
) -> Layout:
    """The layout of a folder that has a folder for each part."""
    _count_outside(root, not_read)
    where = {part: root / name for part, name in named.items()}
    files: dict[str, list[Labelled]] = {}
    train = where[parts.TRAIN]
    table = label_tables.metadata_in(train) if given else None
    if table:
        files[parts.TRAIN] = _rows(table, root, label_tables.read(table), not_read)
        classes = label_tables.class_names(one.label for one in files[parts.TRAIN])
    else:
        files[parts.TRAIN] = _sorted(root, train, not_read)
        classes = tuple(_classes(train))
    unlabelled = ""
    for part in (parts.TEST, parts.VALIDATION):
        if part not in where:
            continue
        found = _labelled(root, where[part], classes, not_read, given=given)
        if found is not None:
            files[part] = found
            names = {one.label for one in found}
            if unknown := sorted(names - set(classes)):
                raise UserError(
                    f"{where[part]} has the classes {', '.join(unknown)}, which "
                    f"{train} does not have; rename them, or add training images"
                )
        elif part == parts.TEST:
            unlabelled = named[part]
        elif any(files_in(where[part], NotRead(), frozenset())):
            raise UserError(
                f"{where[part]} has neither class folders nor a table of labels "
                f"({', '.join(label_tables.METADATA)}, or *annotations.txt as in Tiny "
                "ImageNet); add one, or rename the folder to leave it out"
            )
    used = [name for part, name in named.items() if part in files]
    return Layout(
        classes,
        files,
        None if table else train,
        tuple(sorted(set(folders) - set(used))),
        unlabelled,
    )


def _labelled(
    root: Path,
    folder: Path,
    classes: Iterable[str],
    not_read: NotRead,
    *,
    given: bool,
) -> list[Labelled] | None:
    """The files of a test or validation part; None if nothing says their classes."""
    if given and (table := label_tables.metadata_in(folder)):
        return _rows(table, root, label_tables.read(table), not_read)
    folders = folders_in(folder)
    if folders not in ([], [_UNSORTED]) or _UNSORTED in classes or not given:
        return _sorted(root, folder, not_read)
    if table := label_tables.annotations_in(folder):
        return _rows(table, root, label_tables.read(table), not_read)
    return None


def _sorted(root: Path, parent: Path, not_read: NotRead) -> list[Labelled]:
    """The files in the class folders of a folder, class by class, in the order."""
    _count_outside(parent, not_read)
    return [
        Labelled(file, name, str(file.relative_to(root)))
        for name in folders_in(parent)
        for file in sorted(
            files_in(parent / name, not_read, frozenset({parent.resolve()}))
        )
    ]


def _count_outside(folder: Path, not_read: NotRead) -> None:
    """Counts what lies beside the folders in a folder."""
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            not_read.add("hidden")
        elif not entry.is_dir():
            not_read.add("outside the class folders")


def _of_table(path: Path, not_read: NotRead) -> Layout:
    """The layout that a table of file names and labels describes."""
    rows = label_tables.read(path)
    by_column = any(row.part for row in rows)
    entries = [row.part if by_column else row.file.partition("/")[0] for row in rows]
    given = {entry: parts.part_of(entry) for entry in entries}
    divided = by_column or (
        all(given.values()) and parts.TRAIN in given.values() and len(given) > 1
    )
    if by_column and (odd := sorted(e for e, part in given.items() if not part)):
        known = ", ".join(name for names in parts.NAMES.values() for name in names)
        raise UserError(
            f"{path} divides its rows into {', '.join(odd[:5])}; call each part one of "
            f"{known}"
        )
    found = _rows(path, path.parent, rows, not_read)
    files: dict[str, list[Labelled]] = {parts.TRAIN: []}
    for entry, one in zip(entries, found, strict=True):
        files.setdefault(given[entry] if divided else parts.TRAIN, []).append(one)
    classes = label_tables.class_names(one.label for one in files[parts.TRAIN])
    for part, own in files.items():
        if unknown := sorted({one.label for one in own} - set(classes)):
            raise UserError(
                f"{path}: the {part} images have the classes {', '.join(unknown)}, "
                "which no training image has; add some, or remove the rows"
            )
    return Layout(classes, files, None)


def _rows(
    table: Path, root: Path, rows: Sequence[Row], not_read: NotRead
) -> list[Labelled]:
    """The files that the rows of a table name, in their order.

    Args:
        table: the table.
        root: the folder to which the files' identities are relative.
        rows: the table's rows.
        not_read: receives the files in the table's folder that no row names.

    Raises:
        UserError: there is no such file, there are several, or a file is named twice.
    """
    below = [*files_in(table.parent, not_read, frozenset())]
    by_name: dict[str, list[Path]] = collections.defaultdict(list)
    for file in below:
        for name in {file.name, file.stem}:
            by_name[name].append(file)
    lines: dict[Path, int] = {}
    found = []
    for row in rows:
        file = _resolved(table, row, by_name)
        if file in lines:
            raise UserError(
                f"{table}, lines {lines[file]} and {row.line} both name {row.file}; "
                "keep one of them: an image has one label"
            )
        lines[file] = row.line
        own = "\0".join([str(table.parent.relative_to(root)), row.file, row.part])
        found.append(Labelled(file, row.label, f"{own}\0{row.label}"))
    others = len(set(below) - set(lines) - {table})
    not_read.add(f"that {table.name} does not name", others)
    return found


def _resolved(table: Path, row: Row, by_name: dict[str, list[Path]]) -> Path:
    """The file that a row names: its path, or the name of one file anywhere below."""
    path = table.parent / row.file
    if path.is_file():
        return path
    candidates = by_name.get(row.file, [])
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        first, second = sorted(candidates)[:2]
        raise UserError(
            f"{table}, line {row.line}: {row.file} may be {first} or {second}; give "
            "its path from the table's folder"
        )
    raise UserError(
        f"{table}, line {row.line}: there is no file {row.file} in {table.parent}; add "
        "it, or remove the line"
    )
