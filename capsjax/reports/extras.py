"""Figures, tables and texts in a folder beside its runs, for a report."""

import json
import pathlib

import pandas as pd
from markupsafe import Markup

from capsjax.reports.document import Picture, is_report, preformatted, table

_MAX_ROWS = 100

# A picture, a line of text, or a caption and Markdown that it unfolds.
Extra = Picture | str | tuple[str, Markup]


def read(folder: pathlib.Path) -> tuple[list[Extra], list[str]]:
    """The PNG, CSV and Markdown files that lie directly in a folder.

    Captions are the files' names, or come from ``captions.json``.

    Returns:
        Pieces of the report, and notes on the files that cannot be shown.
    """
    found: list[Extra] = []
    notes: list[str] = []
    captions = {}
    path = folder / "captions.json"
    try:
        captions = dict(json.loads(path.read_text())) if path.exists() else {}
    except (OSError, TypeError, ValueError) as error:
        form = '{"file.png": "caption"}'
        notes.append(f"{path.name} is not of the form {form}: {error}")
    for suffix, reader in {".png": _picture, ".csv": _table, ".md": _text}.items():
        for path in sorted(folder.glob(f"*{suffix}")):
            try:
                if extra := reader(path, str(captions.get(path.name, path.name))):
                    found.append(extra)
            except (OSError, ValueError) as error:
                notes.append(f"{path.name} cannot be shown: {error}")
    return found, notes


def _picture(path: pathlib.Path, caption: str) -> Extra:
    return Picture(path.name, caption, path.read_bytes())


def _table(path: pathlib.Path, caption: str) -> Extra:
    frame = pd.read_csv(path, header=None, dtype=str, na_filter=False)
    header, *rows = frame.to_numpy().tolist()
    if len(rows) >= _MAX_ROWS:
        return f"{caption}: {len(rows):,} rows, too many to show ({path.name})."
    return caption, table(header, rows)


def _text(path: pathlib.Path, caption: str) -> Extra | None:
    content = path.read_text()
    # An earlier report is not shown.
    return None if is_report(content) else (caption, preformatted(content))
