"""Writes the tables of networks, from their structure and the rows of trainings.

python -m experiments.networks

after new rows in the files of --rows and --routings, or a new network. Parameters and
operations are counted; errors here are those of the rows, and published ones the
authors'. The long table goes to --document, what was trained here also to --readme.
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
_ROUTINGS = flags.DEFINE_list(
    "routings",
    ["results/routings/routings.csv"],
    "CSV files with rows of experiments.compare_routing.",
)
_DOCUMENT = flags.DEFINE_string(
    "document", "docs/networks.md", "Document with the table's marks; it is changed."
)
_README = flags.DEFINE_string(
    "readme", "README.md", "Document with the short table's marks; it is changed."
)
launch.group("Files", "rows", "routings", "document", "readme")


def main() -> None:
    """Counts, reads the rows, and writes the table."""
    document, readme = pathlib.Path(_DOCUMENT.value), pathlib.Path(_README.value)
    if missing := [path for path in (document, readme) if not path.exists()]:
        raise UserError(f"there is no {missing[0]}")
    rows = [row for path in _ROWS.value for row in results.read(pathlib.Path(path))]
    routings = [
        row for path in _ROUTINGS.value for row in results.read(pathlib.Path(path))
    ]
    known = networks.published()
    with Progress("counting", len(known), unit="networks") as progress:
        found = []
        for config, of in known:
            found.append(networks.counted(config, of))
            progress.advance()
    _write(document, networks.BEGIN, networks.END, networks.section(found, rows))
    _write(
        readme,
        networks.BEGIN_MEASURED,
        networks.END_MEASURED,
        networks.measured(found, rows, routings),
    )


def _write(document: pathlib.Path, begin: str, end: str, table: str) -> None:
    document.write_text(results.insert(document.read_text(), begin, end, table))
    print(f"table written in {document}")


if __name__ == "__main__":
    launch.run(main)
