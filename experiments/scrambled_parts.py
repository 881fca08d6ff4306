"""Does a network take a face with its parts in the wrong places for a face?

python -m experiments.scrambled_parts --scale=cpu --workdir=runs/scrambled_parts

Trains networks to tell drawn faces from drawings that lack a part, all to the same
validation accuracy (see experiments.train_matched), and asks them about faces whose
parts are swapped, shuffled, turned or moved, or which are upside down. None of them has
been trained on those, unless --scrambled_share says so. Nothing is downloaded.

It leaves in --workdir the runs, matched.csv and matched.md of their accuracy, and
arrangement.csv, arrangement.md and figures of what they say to scrambled faces. The
same command again continues where the last one ended.

With --quarters=RUN,RUN it asks finished runs on other images, such as digits, about
these cut into quarters that have changed places, and trains nothing:

python -m experiments.scrambled_parts --quarters=runs/a,runs/b --workdir=runs/quarters

Runs whose folders differ in seedN alone, or in the accuracy until which they were
trained, are trainings of one network. This leaves
quarters.csv, quarters.md and quarters.png.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from capsjax.analyses import matched
from capsjax.analyses.robustness import arrangement, arrangement_results, quarters
from capsjax.errors import UserError
from capsjax.runs import data_record, grid
from capsjax.runs.folder import RunFolder
from experiments import grid_flags, launch, run_flags, scales
from experiments.configs import faces

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the runs and of their results.", required=True
)
_SCALE = flags.DEFINE_enum(
    "scale",
    "cpu",
    ["smoke", "cpu"],
    "smoke: tiny networks, to see within a minute or two that all works; cpu: for a "
    "CPU, some minutes for each training.",
)
_NETWORKS = flags.DEFINE_list(
    "networks",
    [f"faces:{preset}" for preset in faces.PRESETS],
    "Configs of networks on faces, NAME:PRESET; at the smoke scale two by default.",
)
_SEEDS = flags.DEFINE_integer(
    "seeds",
    3,
    "Trainings of each network, with seeds from 0; at the smoke scale one.",
    lower_bound=1,
)
_TARGET = flags.DEFINE_float(
    "target",
    None,
    "Validation accuracy at which all stop; by default 0.97, at the smoke scale 0.3.",
    lower_bound=0.0,
    upper_bound=1.0,
)
_SHARE = flags.DEFINE_float(
    "scrambled_share",
    0.0,
    "Share of the training images without a face that are shuffled faces.",
    lower_bound=0.0,
    upper_bound=1.0,
)
_DOODLES = flags.DEFINE_bool(
    "doodles",
    True,
    "Draws doodles in the places of half of the missing parts; without them nothing "
    "tells a network what may not be there.",
)
_QUARTERS = flags.DEFINE_list(
    "quarters", None, "Folders of finished runs, to ask about images cut into quarters."
)
_DATA_DIR = launch.define_data_dir()
_DATA_PATH = run_flags.define_data_path()
_JOBS = grid_flags.define_jobs()
_take_up_launcher = grid_flags.define_launcher()
_DRY_RUN = grid_flags.define_dry_run()

_MINUTES = 8  # Of a training of the cpu scale, on a core.


def main() -> None:
    """Trains and asks, or asks finished runs."""
    workdir = pathlib.Path(_WORKDIR.value)
    if _QUARTERS.value:
        _ask_about_quarters(workdir, _QUARTERS.value)
        return
    smoke, target = _SCALE.value == "smoke", _TARGET.value
    if target is None:
        target = 0.3 if smoke else 0.97
    networks, seeds, count = _NETWORKS.value, _SEEDS.value, 1_000
    if smoke:
        seeds, count = 1, 100
        networks = networks if _NETWORKS.present else networks[:2]
    shared = [f"--config.evaluate_every_steps={10 if smoke else 70}"]
    if _SHARE.value:
        shared.append(f"--config.data.scrambled_share={_SHARE.value}")
    if not _DOODLES.value:
        shared.append("--config.data.without_doodles=true")
    words = {
        name: [scales.network_flag(name, quick=smoke), *shared] for name in networks
    }
    source = scales.data_of(words)
    if source.name != "faces":
        raise UserError(
            f"--networks have the data {source.name}; choose configs of faces, such as "
            "faces:capsnet, or ask finished runs with --quarters"
        )
    cells = matched.cells([*words], seeds)
    if _DRY_RUN.value:
        runs = [cell.run(target, words[cell.network]) for cell in cells]
        print("\n".join(grid.commands(runs, workdir)))
        return
    minutes = "seconds each" if smoke else f"about {_MINUTES} minutes each on a core"
    print(
        f"{len(cells)} trainings, {minutes}; again as many at most, where some do not "
        "reach the target",
        flush=True,
    )
    folders = matched.train_all(
        cells, words, target, workdir, _JOBS.value, _take_up_launcher()
    )
    data = launch.load_grid_data(
        folders[cells[0]].load_config(), None, folders.values()
    )
    print(matched.write(workdir, matched.test(folders, data), data.title))
    images = arrangement.images(data, count)
    found = arrangement.ask(folders, data, images)
    print(arrangement_results.write(workdir, found, folders, images))
    print(f"rows, tables and figures in {workdir}")


def _ask_about_quarters(workdir: pathlib.Path, runs: Sequence[str]) -> None:
    folders = {run: RunFolder(run) for run in runs}
    data = launch.load_run_data(
        folders[runs[0]], _DATA_DIR.value, moved_to=_DATA_PATH.value
    )
    for folder in folders.values():
        data_record.check_same(folder, data)
    found = [
        quarters.ask(network, folders[run], data)
        for network, members in matched.by_network(folders).items()
        for run in members
    ]
    print(quarters.write(workdir, found, data.test, data.title))
    print(f"rows, table and figure in {workdir}")


if __name__ == "__main__":
    launch.run(main)
