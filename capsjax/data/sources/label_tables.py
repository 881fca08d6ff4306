"""Tables of file names and labels: CSV, JSON lines, and Tiny ImageNet's annotations."""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from capsjax.errors import UserError

SUFFIXES = (".csv", ".tsv", ".jsonl")
METADATA = ("metadata.csv", "metadata.jsonl")
"""Names under which Hugging Face's data sets keep such a table beside the images."""

_FILE_COLUMNS = (
    *("file_name", "filename", "file", "file_path", "filepath", "path"),
    *("image", "image_name", "image_path", "image_file", "image_id", "img", "id"),
)
_LABEL_COLUMNS = (
    *("label", "labels", "class", "class_name", "class_label", "category", "target"),
    *("label_name", "class_id", "y"),
)
_PART_COLUMNS = ("split", "part", "subset", "set")


class Row(NamedTuple):
    """A file and its class.

    Attributes:
        line: number of the line in the table, from 1.
        file: name of the file, as the table has it.
        label: name of the class.
        part: entry of the column that divides the table, such as "train"; "" if there
            is none.
    """

    line: int
    file: str
    label: str
    part: str


class _Columns(NamedTuple):
    file: str | None
    label: str | None
    part: str | None


def metadata_in(folder: Path) -> Path | None:
    """The table of labels that lies beside the images in a folder, if there is one.

    One without a column of labels is none: it may say other things of images in class
    folders.

    Raises:
        UserError: it cannot be read.
    """
    for path in (folder / name for name in METADATA):
        if path.is_file():
            names, _ = _read(path)
            found = _columns(names)
            if found.file is not None and found.label is not None:
                return path
    return None


def annotations_in(folder: Path) -> Path | None:
    """The file in a folder that is called like Tiny ImageNet's val_annotations.txt."""
    return next(iter(sorted(folder.glob("*annotations.txt"))), None)


def read(path: Path) -> list[Row]:
    """Reads a table.

    Args:
        path: a CSV or TSV file whose first line names the columns, a file of JSON
            objects, one a line, or one called like Tiny ImageNet's val_annotations.txt.

    Returns:
        Its rows, at least one.

    Raises:
        UserError: the file cannot be read, has no column of names or of labels, or a
            row lacks either.
    """
    if path.suffix == ".txt":
        lines = enumerate(_text(path).splitlines(), 1)
        # File, label, and the corners of a box.
        words = [(number, line.split("\t")) for number, line in lines if line.strip()]
        rows = [Row(n, w[0], w[1] if len(w) > 1 else "", "") for n, w in words]
    else:
        names, entries = _read(path)
        columns = _columns(names)
        for known, found, what in (
            (_FILE_COLUMNS, columns.file, "of file names"),
            (_LABEL_COLUMNS, columns.label, "of labels"),
        ):
            if found is None:
                raise UserError(
                    f"{path} has no column {what}: its columns are "
                    f"{', '.join(names) or '(none)'}; call one of them {known[0]} "
                    f"(or {', '.join(known[1:])})"
                )
        rows = [
            Row(
                number,
                *(
                    "" if name is None else _as_text(entry.get(name))
                    for name in (columns.file, columns.label, columns.part)
                ),
            )
            for number, entry in entries
        ]
    if not rows:
        raise UserError(f"{path} names no files; give it a row for each image")
    rows = [row._replace(file=row.file.replace("\\", "/")) for row in rows]  # Windows.
    for row in rows:
        if not row.file or not row.label:
            lacking = "label" if row.file else "file name"
            raise UserError(
                f"{path}, line {row.line}: no {lacking}; add it or remove the line"
            )
    return rows


def class_names(labels: Iterable[str]) -> tuple[str, ...]:
    """The classes of some labels, sorted: by number if all of them are numbers."""
    names = set(labels)
    by_number = all(name.isdecimal() for name in names)
    return tuple(sorted(names, key=(lambda n: (int(n), n)) if by_number else None))


def _columns(names: Sequence[str]) -> _Columns:
    """The columns with the usual names, in any capitals, the most telling ones."""
    plain = {
        name.strip().lower().replace(" ", "_").replace("-", "_"): name
        for name in reversed(names)
    }
    return _Columns(
        *(
            next((plain[name] for name in known if name in plain), None)
            for known in (_FILE_COLUMNS, _LABEL_COLUMNS, _PART_COLUMNS)
        )
    )


def _read(path: Path) -> tuple[list[str], list[tuple[int, dict[str, Any]]]]:
    """Names of the columns, and the rows with the numbers of their lines."""
    text = _text(path)
    if path.suffix.lower() == ".jsonl":
        entries = [
            (number, _json_object(path, number, line))
            for number, line in enumerate(text.splitlines(), 1)
            if line.strip()
        ]
        names = dict.fromkeys(name for _, entry in entries for name in entry)
        return [*names], entries
    header, _, _ = text.partition("\n")
    delimiter = max(",;\t", key=header.count)
    try:
        reader = csv.DictReader(text.splitlines(), delimiter=delimiter)
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise UserError(f"cannot read {path} ({error}); write it as CSV") from error
    return [name for name in reader.fieldnames or () if name], rows


def _json_object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise UserError(f"{path}, line {number}: not JSON ({error})") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}, line {number}: wanted an object, {{...}}")
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # Excel begins with its mark.
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not text in UTF-8 ({error}); save it as that"
        ) from error


def _as_text(entry: Any) -> str:
    return "" if entry is None else str(entry).strip()
