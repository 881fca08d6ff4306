"""Trains a model and leaves a run folder with metrics, checkpoints and plots.

python -m experiments.train --config=experiments/configs/digits.py --workdir=runs/digits
"""

from absl import flags

from capsjax.run_folder import RunFolder
from capsjax.train import train
from experiments import launch

_CONFIG = launch.define_config()
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
    "Continue the run in --workdir from its last checkpoint; starts anew where there "
    "is none.",
)


def main() -> None:
    """Loads the data and trains."""
    config = _CONFIG.value
    data = launch.load_data(config, _DATA_DIR.value)
    train(config, data, RunFolder(_WORKDIR.value), resume=_RESUME.value)


if __name__ == "__main__":
    launch.run(main)
