"""Measures how gradients reach the lower of several layers of capsules.

python -m experiments.gradient_flow --scale=cpu --data_dir=DIR --workdir=runs/gradients

Trains CapsNets of one, two, four and eight routed layers with each routing algorithm,
and measures the gradient of each layer at the start and at the end. Each training is a
separate process; the same command again continues where the last one ended. It leaves
in --workdir the runs, a row for each layer (gradients.csv), a table (gradients.md) and
a figure (gradients.png).
"""

import pathlib

from absl import flags

from capsjax.analyses import gradient_flow, routing_comparison
from capsjax.errors import UserError
from capsjax.routings import ROUTINGS
from capsjax.runs import grid
from capsjax.runs.folder import RunFolder
from experiments import grid_flags, launch, scales

_SCALE = scales.define_scale()
_IMAGES = scales.define_images()
_DATA_DIR = launch.define_data_dir()
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the trainings and of their results.", required=True
)
_ROUTINGS = flags.DEFINE_list(
    "routings",
    list(routing_comparison.ALL),
    f"Algorithms, with their defaults or, as NAME:PRESET, a preset: "
    f"{', '.join(ROUTINGS)}.",
)
_DEPTHS = flags.DEFINE_list(
    "depths", ["1", "2", "4", "8"], "Numbers of routed layers, from 1."
)
_WIDTH = flags.DEFINE_integer(
    "width", 32, "Capsules in each hidden layer.", lower_bound=1
)
_MAX_STEPS = flags.DEFINE_integer(
    "max_steps",
    None,
    "Steps of every training; by default --scale decides.",
    lower_bound=1,
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder of table, rows and figure; by default --workdir."
)
_JOBS = grid_flags.define_jobs()
_take_up_launcher = grid_flags.define_launcher()
_DRY_RUN = grid_flags.define_dry_run()


def main() -> None:
    """Trains what is not trained yet, and measures gradients."""
    depths = _DEPTHS.value
    if not depths or not all(x.isdecimal() and int(x) for x in depths):
        raise UserError(
            f"--depths={','.join(depths)} is not numbers from 1 with commas"
        )
    words = [
        scales.config_flag("mnist", "paper", _SCALE.value),
        *scales.data_flags(_IMAGES.value, _DATA_DIR.value, derived=False),
        "--config.model.decoder_units=()",
    ]
    words += scales.step_flags(_MAX_STEPS.value)
    config = launch.config_of(words)
    cells = gradient_flow.cells(
        list(dict.fromkeys(_ROUTINGS.value)), sorted(set(map(int, depths)))
    )
    runs = gradient_flow.runs(cells, config, _WIDTH.value, words)
    workdir = pathlib.Path(_WORKDIR.value)
    if _DRY_RUN.value:
        print("\n".join(grid.commands(runs, workdir)))
        return
    outcomes = grid.run_all(
        runs, workdir, jobs=_JOBS.value, executor=_take_up_launcher()
    )
    folders = [RunFolder(workdir / run.name) for run in runs]
    data = launch.load_grid_data(config, _DATA_DIR.value, folders)
    output = pathlib.Path(_OUTPUT.value or workdir)
    print(gradient_flow.write(workdir, output, cells, data))
    print(f"rows, table and figure in {output}")
    grid.refuse_failures(outcomes, workdir)


if __name__ == "__main__":
    launch.run(main)
