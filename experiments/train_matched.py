"""Trains networks to the same validation accuracy, so that they can be compared.

python -m experiments.train_matched --networks=mnist:paper:cpu,mnist:baseline:cpu \
    --target=0.99 --seeds=3 --data_dir=DIR --workdir=runs/matched

Every training ends at the --target. If some do not get there, the best that all reach
is the target of the others, which are trained again. Then the best checkpoint of each
run is tested. Further flags such as --config.max_steps=2000 are those of all trainings.

Each training is a separate process; the same command again continues where the last
one ended. It leaves in --workdir the runs, a row for each (matched.csv) and a table
(matched.md). The time is that of the trainings, and at most twice that.
"""

import pathlib

from absl import flags

from capsjax.analyses import matched
from capsjax.errors import UserError
from capsjax.runs import grid
from experiments import grid_flags, launch, scales

_OVERRIDES = launch.define_overrides()
_IMAGES = scales.define_images()
_DATA_DIR = launch.define_data_dir()
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the runs and of their results.", required=True
)
_NETWORKS = flags.DEFINE_list(
    "networks",
    ["mnist:paper:cpu", "mnist:baseline:cpu"],
    "Configs of networks, NAME or NAME:PRESET, perhaps with :SIZE, such as "
    "mnist:paper:cpu or efficient_capsnet.",
)
_TARGET = flags.DEFINE_float(
    "target",
    0.99,
    "Validation accuracy at which all stop.",
    lower_bound=0.0,
    upper_bound=1.0,
)
_SEEDS = flags.DEFINE_integer(
    "seeds", 3, "Trainings of each network, with seeds from 0.", lower_bound=1
)
_EVERY = flags.DEFINE_integer(
    "evaluate_every_steps", 100, "Steps between looks at the accuracy.", lower_bound=1
)
_JOBS = grid_flags.define_jobs()
_take_up_launcher = grid_flags.define_launcher()
_DRY_RUN = grid_flags.define_dry_run()


def main() -> None:
    """Trains what is not trained yet, tests it, and writes the table."""
    if {"seed", "stop_at_validation_accuracy"} & set(_OVERRIDES.overrides):
        raise UserError(
            "--config.seed and --config.stop_at_validation_accuracy are set here; use "
            "--seeds and --target instead"
        )
    shared = [
        *scales.data_flags(_IMAGES.value, _DATA_DIR.value, derived=False),
        f"--config.evaluate_every_steps={_EVERY.value}",
        *_OVERRIDES.words(),
    ]
    words = {name: [scales.network_flag(name), *shared] for name in _NETWORKS.value}
    scales.data_of(words)
    cells, workdir = matched.cells([*words], _SEEDS.value), pathlib.Path(_WORKDIR.value)
    if _DRY_RUN.value:
        runs = [cell.run(_TARGET.value, words[cell.network]) for cell in cells]
        print("\n".join(grid.commands(runs, workdir)))
        return
    folders = matched.train_all(
        cells, words, _TARGET.value, workdir, _JOBS.value, _take_up_launcher()
    )
    config = folders[cells[0]].load_config()
    data = launch.load_grid_data(config, _DATA_DIR.value, folders.values())
    print(matched.write(workdir, matched.test(folders, data), data.title))
    print(f"rows and table in {workdir}")


if __name__ == "__main__":
    launch.run(main)
