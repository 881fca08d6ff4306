"""Test error against the number of training images of each class, for some networks.

python -m experiments.data_efficiency --data_dir=DIR --workdir=runs/data_efficiency

Trains each network on 1, 2, 5, ... images of each class, with the same number of steps
and seeds. The images of a seed are nested: more contain the fewer. Each training is a
separate process; the same command again continues where the last one ended. It leaves
in --workdir the runs, a row for each (data_efficiency.csv), a table with 95 % intervals
over the seeds and a fitted power law (data_efficiency.md), and a figure.

The claim under test is that capsules need fewer images than other networks.
"""

import pathlib

from absl import flags

from capsjax.analyses import data_efficiency
from capsjax.runs import grid
from experiments import grid_flags, launch, scales

_IMAGES = scales.define_images()
_DATA_DIR = launch.define_data_dir()
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the trainings and of their results.", required=True
)
_NETWORKS = flags.DEFINE_list(
    "networks",
    ["mnist:paper:cpu", "mnist:baseline:cpu"],
    "Configs of networks, NAME or NAME:PRESET, perhaps with :SIZE, such as "
    "mnist:paper:cpu or deep_convnet.",
)
_PER_CLASS = flags.DEFINE_list(
    "images_per_class",
    ["1", "2", "5", "10", "20", "50", "100"],
    "Numbers of training images of each class.",
)
_SEEDS = flags.DEFINE_integer(
    "seeds",
    3,
    "Trainings of each network on each number of images, with seeds from 0.",
    lower_bound=1,
)
_MAX_STEPS = flags.DEFINE_integer(
    "max_steps", 500, "Steps of every training, the same for all.", lower_bound=1
)
_QUICK = flags.DEFINE_bool(
    "quick", False, "The networks' quick sizes, to see within minutes that all works."
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder of table, rows and figure; by default --workdir."
)
_JOBS = grid_flags.define_jobs()
_take_up_launcher = grid_flags.define_launcher()
_DRY_RUN = grid_flags.define_dry_run()


def main() -> None:
    """Trains what is not trained yet, and makes the table."""
    networks = list(dict.fromkeys(_NETWORKS.value))
    shared = [
        *scales.data_flags(_IMAGES.value, _DATA_DIR.value, derived=False),
        *scales.step_flags(_MAX_STEPS.value),
        # An epoch has at least one step: only the number of steps ends a training.
        f"--config.num_epochs={_MAX_STEPS.value}",
    ]
    words = {
        name: [scales.network_flag(name, quick=_QUICK.value), *shared]
        for name in networks
    }
    scales.data_of(words)
    cells = data_efficiency.cells(networks, data_efficiency.counts(_PER_CLASS.value))
    runs = data_efficiency.runs(cells, _SEEDS.value, words)
    workdir = pathlib.Path(_WORKDIR.value)
    if _DRY_RUN.value:
        print("\n".join(grid.commands(runs, workdir)))
        return
    outcomes = grid.run_all(
        runs, workdir, jobs=_JOBS.value, executor=_take_up_launcher()
    )
    output = pathlib.Path(_OUTPUT.value or workdir)
    print(data_efficiency.write(workdir, output, cells, _SEEDS.value))
    print(f"rows, table and figure in {output}")
    grid.refuse_failures(outcomes, workdir)


if __name__ == "__main__":
    launch.run(main)
