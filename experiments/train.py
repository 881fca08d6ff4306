"""Trains a model and leaves a run folder with metrics, checkpoints and plots.

    python -m experiments.train --config=experiments/configs/digits.py --workdir=runs/a
"""

from absl import flags

from capsjax import data
from capsjax.run_folder import RunFolder
from capsjax.train import train
from experiments import launch

_CONFIG = launch.define_config()
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of the run: settings, metrics, checkpoints, plots and result.json. It must "
    "be new or empty, except with --resume.",
    required=True,
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "Folder of the TFDS data sets (see experiments/prepare_data.py); by default the "
    "environment variable TFDS_DATA_DIR or ~/tensorflow_datasets. Not needed for the "
    "digits or for one's own images.",
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
    data_set = data.load(
        config.data.name,
        data_dir=_DATA_DIR.value,
        path=config.data.path or None,
        validation_examples=config.data.validation_examples,
        image_size=config.data.image_size,
    )
    train(config, data_set, RunFolder(_WORKDIR.value), resume=_RESUME.value)


if __name__ == "__main__":
    launch.run(main)
