"""Writes the table of networks, from their structure and the rows of trainings.

python -m experiments.networks

after new rows in the files of --rows, or a new network. Parameters and operations are
counted; errors here are those of the rows, and published ones the authors'.
"""

import pathlib

from absl import flags

from capsjax.analyses import networks
from capsjax.errors import UserError
from capsjax.runs import results
from capsjax.runs.progress import Progress
from experiments import launch

_ROWS = flags.DEFINE_list(
    "rows",
    ["results/training.csv", "results/spoken_digits/training.csv"],
    "CSV files with rows of trainings.",
)
_DOCUMENT = flags.DEFINE_string(
    "document", "docs/networks.md", "Document with the table's marks; it is changed."
)
launch.group("Files", "rows", "document")


def main() -> None:
    """Counts, reads the rows, and writes the table."""
    document = pathlib.Path(_DOCUMENT.value)
    if not document.exists():
        raise UserError(f"there is no {document}")
    rows = [row for path in _ROWS.value for row in results.read(pathlib.Path(path))]
    known = networks.published()
    with Progress("counting", len(known), unit="networks") as progress:
        found = []
        for config, of in known:
            found.append(networks.counted(config, of))
            progress.advance()
    table = networks.section(found, rows)
    text = results.insert(document.read_text(), networks.BEGIN, networks.END, table)
    document.write_text(text)
    print(f"table written in {document}")


if __name__ == "__main__":
    launch.run(main)
