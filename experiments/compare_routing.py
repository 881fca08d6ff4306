"""Compares routing algorithms in one network, with the same data and number of steps.

python -m experiments.compare_routing --scale=cpu --data_dir=DIR --workdir=runs/routings

Trains the network once for each algorithm and seed, with uniform routing, which does
not route at all, as the control. Each training is a separate process, one on each GPU
or one after another on a CPU; the same command again continues where the last one
ended. It leaves in --workdir the runs, a row for each (routings.csv), the table with
errors, paired differences to the control, parameters, time and memory of a step
(routings.md, routings_table.csv), and a figure (routings.png).

The backbones: capsnet, the paper's CapsNet without its decoder, where one layer is
routed; and matrix_capsules, where three are, two of them convolutional.
"""

import pathlib

from absl import flags

from capsjax.analyses import routing_comparison as comparison
from capsjax.analyses.routing_comparison import Cost
from capsjax.benchmarks import programs
from capsjax.config import Config
from capsjax.data import Dataset
from capsjax.errors import UserError
from capsjax.routings import ROUTINGS
from capsjax.runs import grid
from capsjax.runs.folder import RunFolder
from experiments import grid_flags, launch, scales

_BACKBONES = {
    "capsnet": ("mnist", "paper"),
    "matrix_capsules": ("matrix_capsules", "mnist"),
}

_SCALE = scales.define_scale()
_IMAGES = scales.define_images()
_DATA_DIR = launch.define_data_dir()
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the trainings and of their results.", required=True
)
_BACKBONE = flags.DEFINE_enum(
    "backbone", "capsnet", list(_BACKBONES), "Network whose routing is replaced."
)
_ROUTINGS = flags.DEFINE_list(
    "routings",
    list(comparison.ALL),
    f"Algorithms, with their defaults or, as NAME:PRESET, a preset: "
    f"{', '.join(ROUTINGS)}.",
)
_SEEDS = flags.DEFINE_integer(
    "seeds", 3, "Trainings of each algorithm, with seeds from 0.", lower_bound=1
)
_MAX_STEPS = flags.DEFINE_integer(
    "max_steps",
    None,
    "Steps of every training; by default --scale decides.",
    lower_bound=1,
)
_REPEATS = flags.DEFINE_integer(
    "repeats", 10, "Timed steps of each algorithm, in turn.", lower_bound=1
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder of table, rows and figure; by default --workdir."
)
_JOBS = grid_flags.define_jobs()
_take_up_launcher = grid_flags.define_launcher()
_DRY_RUN = grid_flags.define_dry_run()


def main() -> None:
    """Trains what is not trained yet, measures a step of each, and makes the table."""
    routings = list(dict.fromkeys(_ROUTINGS.value))
    if comparison.CONTROL not in routings:
        raise UserError(
            f"--routings={','.join(routings)} leaves out {comparison.CONTROL}, the "
            "control; add it"
        )
    words = [
        scales.config_flag(*_BACKBONES[_BACKBONE.value], _SCALE.value),
        *scales.data_flags(_IMAGES.value, _DATA_DIR.value, derived=False),
    ]
    words += scales.step_flags(_MAX_STEPS.value)
    config = launch.config_of(words)
    words += [
        f"--config.model.{name}={value}"
        for name, value in config.model.decoder_off.items()
    ]
    config = launch.config_of(words)
    runs = comparison.runs(config, routings, _SEEDS.value, words)
    workdir = pathlib.Path(_WORKDIR.value)
    if _DRY_RUN.value:
        print("\n".join(grid.commands(runs, workdir)))
        return
    outcomes = grid.run_all(
        runs, workdir, jobs=_JOBS.value, executor=_take_up_launcher()
    )
    folders = [RunFolder(workdir / run.name) for run in runs]
    data = launch.load_grid_data(config, _DATA_DIR.value, folders)
    costs = {} if any(x.error for x in outcomes) else _costs(config, routings, data)
    output = pathlib.Path(_OUTPUT.value or workdir)
    print(comparison.write(workdir, output, routings, _SEEDS.value, data, costs))
    print(f"rows, table and figure in {output}")
    grid.refuse_failures(outcomes, workdir)


def _costs(config: Config, routings: list[str], data: Dataset) -> dict[str, Cost]:
    print("measuring a train step of each algorithm", flush=True)
    problems = [
        programs.Problem(
            comparison.routed(config, name), data.image_shape, data.num_classes
        )
        for name in routings
    ]
    compiled = [programs.compile_step(problem) for problem in problems]
    found = programs.measure(compiled, repeats=_REPEATS.value)
    return {
        name: Cost(
            programs.count_parameters(problem),
            1e3 * timing.median_s,
            timing.peak_mb or 0.0,
        )
        for name, problem, timing in zip(routings, problems, found, strict=True)
    }


if __name__ == "__main__":
    launch.run(main)
