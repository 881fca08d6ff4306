"""Figures, tables and texts that lie in a folder beside its runs, for a report."""

import csv
import json
import pathlib
from collections.abc import Callable

from capsjax.reports.document import (
    MARK,
    Block,
    Details,
    Paragraph,
    Picture,
    Preformatted,
    Table,
    is_png,
)
from capsjax.reports.runs import without_paths

_MAX_ROWS = 100
_CAPTIONS = "captions.json"


def blocks(folder: pathlib.Path) -> tuple[list[Block], list[str]]:
    """The PNG, CSV and Markdown files that lie directly in a folder.

    Captions are the files' names, or come from ``captions.json``, an object of captions
    by file names.

    Returns:
        What to show, and what could not be.
    """
    notes: list[str] = []
    captions = _captions(folder / _CAPTIONS, notes)
    found: list[Block] = []
    readers: dict[str, Callable[[pathlib.Path, str], list[Block]]] = {
        ".png": _picture,
        ".csv": _table,
        ".md": _text,
    }
    for suffix, reader in readers.items():
        for path in sorted(folder.glob(f"*{suffix}")):
            try:
                found += reader(path, captions.get(path.name, path.name))
            except (OSError, ValueError, csv.Error) as error:
                notes.append(
                    f"{path.name} cannot be shown: {without_paths(str(error))}"
                )
    return found, notes


def _captions(path: pathlib.Path, notes: list[str]) -> dict[str, str]:
    try:
        content = json.loads(path.read_text()) if path.exists() else {}
    except (OSError, ValueError) as error:
        notes.append(f"{path.name} cannot be read: {without_paths(str(error))}")
        return {}
    if not isinstance(content, dict):
        notes.append(f'{path.name} is not of the form {{"file.png": "caption"}}')
        return {}
    return {name: str(caption) for name, caption in content.items()}


def _picture(path: pathlib.Path, caption: str) -> list[Block]:
    content = path.read_bytes()
    if not is_png(content):
        raise ValueError("it is no PNG image, or damaged")
    return [Picture(path.name, caption, content)]


def _table(path: pathlib.Path, caption: str) -> list[Block]:
    with path.open(newline="") as file:
        header, *rows = [row for row in csv.reader(file) if row] or [[]]
    if not header or len(rows) >= _MAX_ROWS:
        amount = f"{len(rows):,} rows, too many to show" if header else "no rows"
        return [Paragraph(f"{caption}: {amount} ({path.name}).")]
    width = max(map(len, (header, *rows)))
    cells = [
        [*map(without_paths, row), *[""] * (width - len(row))]
        for row in (header, *rows)
    ]
    numeric = frozenset(
        column
        for column in range(width)
        if rows and all(_is_number(row[column]) for row in cells[1:])
    )
    return [Details(caption, [Table(cells[0], cells[1:], numeric)])]


def _text(path: pathlib.Path, caption: str) -> list[Block]:
    content = path.read_text()
    if MARK in content[:200]:  # A report on an earlier day.
        return []
    return [Details(caption, [Preformatted(without_paths(content))])]


def _is_number(cell: str) -> bool:
    try:
        float(cell or "0")
    except ValueError:
        return False
    return True
