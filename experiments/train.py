"""Trains a model and leaves a run folder with metrics, checkpoints and plots.

python -m experiments.train --config=experiments/configs/digits.py --workdir=runs/digits

It uses all devices, and several processes on request. SIGTERM and Ctrl-C end it between
two steps and save the state; the same command with --resume goes on.
"""

import re
import sys
import traceback

from absl import flags

from capsjax.analyses.figures import run as figures
from capsjax.errors import UserError
from capsjax.runs.folder import RunFolder
from capsjax.training.train import train
from experiments import launch

_CONFIG = launch.define_config()
_INIT_FROM = flags.DEFINE_string(
    "init_from",
    None,
    "Starts from a trained network: short for --config.init_from. Take only some of "
    "its layers with --config.init_layers, keep them as they are or let them learn "
    "slowly with --config.optimizer.rates.",
)
_DATA_DIR = launch.define_data_dir()
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of the run: settings, metrics, checkpoints, plots and result.json. It must "
    "be new or empty, except with --resume.",
    required=True,
)
_RESUME = flags.DEFINE_bool(
    "resume",
    False,
    "Continue the run in --workdir from its last checkpoint, or start it if there is "
    "none.",
)

_PROFILE_STEPS = flags.DEFINE_string(
    "profile_steps",
    "",
    "first:last, such as 10:20: writes a trace of these steps, counted from 0 and "
    "excluding the last, to the folder profile in --workdir.",
)
_take_up_devices = launch.define_devices()


def main() -> None:
    """Loads the data, trains, and draws the run's figures."""
    _take_up_devices()
    config = _CONFIG.value
    if _INIT_FROM.value is not None:
        config.init_from = _INIT_FROM.value
    folder = RunFolder(_WORKDIR.value)
    if _RESUME.value:
        launch.read_as_before(config, folder, _CONFIG.overrides)
    data = launch.load_data(config, _DATA_DIR.value)
    trained = train(
        config,
        data,
        folder,
        resume=_RESUME.value,
        profile_steps=_steps(_PROFILE_STEPS.value),
    )
    if trained is None:  # Another process reports.
        return
    result = trained.record
    print(
        f"test accuracy {result['test_accuracy']:.4f} "
        f"({result['test_error_percent']:.2f} % error) after {result['steps']} steps "
        f"in {result['seconds']:.0f} s; see {folder.result.name} and "
        f"{folder.plots.name}/ in {folder.path}",
        flush=True,
    )
    try:
        figures.write_all(folder, data, trained)
    # The run has ended and its result is saved, whatever becomes of its figures.
    except Exception as error:
        if not isinstance(error, OSError):
            traceback.print_exc()
        print(
            f"warning: the run has ended, but its figures could not be drawn ({error})",
            file=sys.stderr,
        )


def _steps(text: str) -> range:
    if not text:
        return range(0)
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if not match or int(match[1]) >= int(match[2]):
        raise UserError(f"--profile_steps={text} is not first:last, such as 10:20")
    return range(int(match[1]), int(match[2]))


if __name__ == "__main__":
    launch.run(main)
