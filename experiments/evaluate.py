"""Evaluates a checkpoint of a run and prints the metrics as JSON.

python -m experiments.evaluate --workdir=runs/digits --checkpoint=best

A run can also be tested on other images: one with smallNORB's novel azimuths on
familiar ones (--novel_viewpoint=azimuth_familiar), or one with expanded MNIST on
affNIST (--data_name=affnist).
"""

import json

from absl import flags

from capsjax.errors import UserError
from capsjax.runs.folder import RunFolder
from capsjax.runs.progress import Progress
from capsjax.training.trained import evaluate, restore
from experiments import launch

_DATA_DIR = launch.define_data_dir()
_WORKDIR, _checkpoint = launch.define_run()
_SPLIT = flags.DEFINE_enum(
    "split", "test", ["test", "validation", "train"], "Images to evaluate on."
)
_DATA_NAME = flags.DEFINE_string(
    "data_name",
    None,
    "Another data set with images of the same size and the same classes, such as "
    "affnist for a run on expanded; by default the run's.",
)
_NOVEL_VIEWPOINT = flags.DEFINE_string(
    "novel_viewpoint",
    None,
    "Other viewpoints of smallnorb than the run's, such as azimuth_familiar after "
    "azimuth; see config.data.novel_viewpoint.",
)


def main() -> None:
    """Restores the parameters and evaluates them."""
    folder = RunFolder(_WORKDIR.value)
    config = folder.load_config()
    if _DATA_NAME.value is not None:
        config.data.name = _DATA_NAME.value
    if _NOVEL_VIEWPOINT.value is not None:
        config.data.novel_viewpoint = _NOVEL_VIEWPOINT.value
    data = launch.load_data(config, _DATA_DIR.value)
    images = {"test": data.test, "validation": data.validation, "train": data.train}[
        _SPLIT.value
    ]
    if not len(images):
        raise UserError(
            f"the run in {folder.path} has no {_SPLIT.value} images "
            "(config.data.validation_examples is 0)"
        )
    model = restore(folder, data, _checkpoint())
    with Progress("evaluating", len(images), unit="images") as progress:
        found = evaluate(model, images, on_batch=progress.advance)
    step = {"step": model.step, "examples": len(images)}
    print(json.dumps(step | found.metrics, indent=2))


if __name__ == "__main__":
    launch.run(main)
