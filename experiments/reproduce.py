"""Reproduces table 1 of the paper: MNIST and MultiMNIST, routing and reconstruction.

python -m experiments.reproduce --table=1 --scale=paper --data_dir=DIR \
    --workdir=runs/table1

Trains the baseline CNN and CapsNet with 1 and 3 routing iterations, without and with
reconstruction, each with several seeds, and prints ours beside the paper's. Each
training is a separate process, one on each GPU or one after another on a CPU; the same
command again continues where the last one ended, and only collects the results if all
have ended. It leaves in --workdir the runs, table1.csv and table1.md, which say how
long each run was: a short run is never taken for a full one. In less time,

python -m experiments.reproduce --max_steps=10000 --cells=mnist_r1_decoder,\
mnist_r3_decoder --seeds=1 --data_dir=DIR --workdir=runs/short
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from capsjax.analyses import paper_table
from capsjax.analyses.paper_table import Cell
from capsjax.errors import UserError
from capsjax.models.capsules import capsnet
from capsjax.runs import grid
from capsjax.runs.stop import Stopped
from experiments import grid_flags, launch, scales

_TABLE = flags.DEFINE_enum("table", "1", ["1"], "Which table of the paper.")
_SCALE = scales.define_scale()
_IMAGES = scales.define_images()
_DATA_DIR = launch.define_data_dir()
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the runs and of the table.", required=True
)
_PRESET = flags.DEFINE_enum(
    "preset",
    "authors_code",
    ["paper", "authors_code"],
    "Settings of the CapsNets, see experiments/configs/mnist.py.",
)
_NAMES = {cell.name: cell for cell in paper_table.CELLS}
_CELLS = flags.DEFINE_list("cells", [], f"Cells, by default all: {', '.join(_NAMES)}.")
_SEEDS = flags.DEFINE_integer(
    "seeds", 3, "Trainings of each cell, with seeds from 0.", lower_bound=1
)
_MAX_STEPS = flags.DEFINE_integer(
    "max_steps",
    None,
    "Steps of every training; the learning rate falls faster in the same proportion. "
    "The table names the steps. By default --scale decides.",
    lower_bound=1,
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder of table1.csv and table1.md; by default --workdir."
)
_JOBS = grid_flags.define_jobs()
_take_up_launcher = grid_flags.define_launcher()
_DRY_RUN = grid_flags.define_dry_run()


def main() -> None:
    """Trains the models that are missing, and writes the table."""
    if unknown := [name for name in _CELLS.value if name not in _NAMES]:
        raise UserError(
            f"unknown cell {unknown[0]!r} in --cells; choose from {', '.join(_NAMES)}"
        )
    cells = [_NAMES[name] for name in dict.fromkeys(_CELLS.value or _NAMES)]
    workdir = pathlib.Path(_WORKDIR.value)
    # Seed by seed, so that a table that is cut short has every cell.
    runs = [
        grid.Run(paper_table.run_name(cell, seed), _flags(cell, seed))
        for seed in range(_SEEDS.value)
        for cell in cells
    ]
    if _DRY_RUN.value:
        print("\n".join(grid.commands(runs, workdir)))
        return
    output = pathlib.Path(_OUTPUT.value or workdir)
    try:
        outcomes = grid.run_all(
            runs, workdir, jobs=_JOBS.value, executor=_take_up_launcher()
        )
    except Stopped:
        # The runs that have ended are also in a table that is cut short. After any
        # other error the folder, and with it the table, may be another process's.
        _write_table(workdir, output, cells)
        raise
    _write_table(workdir, output, cells)
    grid.refuse_failures(outcomes, workdir)


def _write_table(
    workdir: pathlib.Path, output: pathlib.Path, cells: Sequence[Cell]
) -> None:
    sizes = (_SEEDS.value, _IMAGES.value, _SCALE.value)
    print(paper_table.write(workdir, output, cells, *sizes))
    print(f"rows and table {_TABLE.value} in {output}")


def _flags(cell: Cell, seed: int) -> list[str]:
    preset = _PRESET.value if cell.iterations else "baseline"
    derived = cell.data == "multimnist"
    words = [
        scales.config_flag(cell.data, preset, _SCALE.value),
        f"--config.seed={seed}",
        *scales.data_flags(_IMAGES.value, _DATA_DIR.value, derived=derived),
    ]
    if steps := _MAX_STEPS.value:
        # The learning rate falls as far as in a run of the released code's length.
        decay_steps = max(2_000 * steps // paper_table.FULL_STEPS, 1)
        words += [
            f"--config.max_steps={steps}",
            f"--config.optimizer.decay_steps={decay_steps}",
        ]
    if _SCALE.value == "paper":
        # On all training images, as in the paper.
        words.append("--config.data.validation_examples=0")
    if cell.iterations:
        words.append(f"--config.model.routing.iterations={cell.iterations}")
        if not cell.reconstruction:
            off = capsnet.Config.decoder_off.items()
            words += [f"--config.model.{name}={value}" for name, value in off]
    return words


if __name__ == "__main__":
    launch.run(main)
