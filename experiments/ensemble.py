"""Trains models that differ in their seed and tests them together.

python -m experiments.ensemble --config=experiments/configs/cifar10.py \
    --data_dir=DIR --workdir=runs/ensemble

Each training is a separate process, one on each GPU or one after another on a CPU.
Their scores for each class are summed; the single models are reported, too. The paper
does so with seven models on CIFAR-10. The same command again continues where the last
one ended. It leaves in --workdir the runs, ensemble.csv, ensemble.md and ensemble.png.
"""

import pathlib

from absl import flags

from capsjax import config as config_lib
from capsjax.analyses import ensemble
from capsjax.errors import UserError
from capsjax.runs import grid
from capsjax.runs.folder import RunFolder
from experiments import grid_flags, launch

_CONFIG = launch.define_config()
_DATA_DIR = launch.define_data_dir()
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the runs and of their results.", required=True
)
_MEMBERS = flags.DEFINE_integer(
    "members", 7, "Number of models, with seeds from 0.", lower_bound=1
)
_JOBS = grid_flags.define_jobs()
_take_up_launcher = grid_flags.define_launcher()
_DRY_RUN = grid_flags.define_dry_run()


def main() -> None:
    """Trains the models that are missing, and tests all together."""
    config, words = _CONFIG.value, _CONFIG.words()
    config_lib.check(config)
    if config_lib.classes_per_image(config) > 1:
        raise UserError("an ensemble needs images of one class each, not multimnist")
    if "seed" in _CONFIG.overrides:
        raise UserError("an ensemble sets --config.seed; use --members instead")
    if _DATA_DIR.value is not None:
        words.append(f"--data_dir={_DATA_DIR.value}")
    runs = [
        grid.Run(f"seed{seed}", [*words, f"--config.seed={seed}"])
        for seed in range(_MEMBERS.value)
    ]
    workdir = pathlib.Path(_WORKDIR.value)
    if _DRY_RUN.value:
        print("\n".join(grid.commands(runs, workdir)))
        return
    grid.refuse_failures(
        grid.run_all(runs, workdir, jobs=_JOBS.value, executor=_take_up_launcher()),
        workdir,
    )
    folders = [RunFolder(workdir / run.name) for run in runs]
    data = launch.load_grid_data(config, _DATA_DIR.value, folders)
    print(ensemble.write(workdir, folders, data))
    print(f"rows, table and figure in {workdir}")


if __name__ == "__main__":
    launch.run(main)
