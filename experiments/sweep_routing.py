"""Trains with each number of routing iterations, with and without reconstruction.

python -m experiments.sweep_routing --config=experiments/configs/mnist.py:paper \
    --workdir=runs/sweep --config.max_steps=10000 --iterations=1,3 --seeds=3

Each training is a separate process, one on each GPU or one after another on a CPU, with
its run's folder and its log in --workdir. The same command again continues where the
last one ended. It leaves in --workdir a row for each run (sweep.csv), the table of the
test errors (sweep.md, sweep_table.csv), and figures: error against iterations, training
loss, and how much each iteration changes the routing logits.
"""

import pathlib

from absl import flags

from capsjax.analyses import routing_sweep as sweep
from capsjax.runs import grid
from experiments import grid_flags, launch

_CONFIG = launch.define_config()
_DATA_DIR = launch.define_data_dir()
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the trainings and of their results.", required=True
)
_ITERATIONS = flags.DEFINE_list(
    "iterations", ["1", "2", "3", "5", "7", "10"], "Numbers of routing iterations."
)
_RECONSTRUCTION = flags.DEFINE_list(
    "reconstruction",
    ["false", "true"],
    "Training with a decoder: false, true, or false,true for both.",
)
_SEEDS = flags.DEFINE_integer(
    "seeds", 3, "Trainings of each setting, with seeds from 0.", lower_bound=1
)
_JOBS = grid_flags.define_jobs()
_take_up_launcher = grid_flags.define_launcher()
_DRY_RUN = grid_flags.define_dry_run()


def main() -> None:
    """Trains what is not trained yet, and makes table and figures."""
    words = _CONFIG.words()
    cells = sweep.cells(_ITERATIONS.value, _RECONSTRUCTION.value)
    sweep.check(_CONFIG.value, words, cells)
    if _DATA_DIR.value is not None:
        words.append(f"--data_dir={_DATA_DIR.value}")
    runs = sweep.runs(_CONFIG.value, cells, _SEEDS.value, words)
    workdir = pathlib.Path(_WORKDIR.value)
    if _DRY_RUN.value:
        print("\n".join(grid.commands(runs, workdir)))
        return
    outcomes = grid.run_all(
        runs, workdir, jobs=_JOBS.value, executor=_take_up_launcher()
    )
    print(sweep.write(workdir, cells, _SEEDS.value))
    print(f"table in {workdir / 'sweep.md'}, rows and figures beside it")
    grid.refuse_failures(outcomes, workdir)


if __name__ == "__main__":
    launch.run(main)
