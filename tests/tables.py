"""Columns of committed tables, and tables without padding, for tests."""

import re

from capsjax.runs import results
from tests.launching import ROOT


def committed_columns(name: str) -> set[str]:
    """Columns of a committed CSV file."""
    return set(results.read(ROOT / "results" / name)[0])


def unpadded(table: str) -> str:
    """A table without the spaces that align its columns."""
    return re.sub(" +", " ", table)
