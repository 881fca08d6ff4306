"""Builds one HTML page, and a Markdown file, with the results of runs.

python -m experiments.report runs/sweep runs/mnist --output=report.html

RUNS are folders of runs, or folders that hold some at any depth. The page needs no
other file: open it in a browser, or send it. It begins with anything that makes the
runs hard to compare; then come the results over seeds, learning curves, the figures and
tables that lie directly in the given folders (with captions from a file captions.json,
{"file.png": "caption"}, if there is one), and each run with provenance and figures.
"""

import pathlib

from absl import flags

from capsjax.reports import page as report
from experiments import launch

_OUTPUT = flags.DEFINE_string(
    "output",
    "report.html",
    "The HTML file to write; the Markdown goes beside it with the suffix .md, its "
    "pictures into a folder beside it.",
)
_TITLE = flags.DEFINE_string(
    "title", None, "Title of the report; by default from the names of the folders."
)
_EACH_RUN = flags.DEFINE_bool(
    "each_run",
    True,
    "Adds a section on each run, with its provenance and its figures. Without them a "
    "report on many runs is small.",
)


def main(folders: list[str]) -> None:
    """Reads the runs and writes the report."""
    given, output = [*map(pathlib.Path, folders)], pathlib.Path(_OUTPUT.value)
    print(report.write(given, output, _TITLE.value, each_run=_EACH_RUN.value))


if __name__ == "__main__":
    launch.run(main, positional="RUNS...")
