"""Evaluates a checkpoint of a run and prints the metrics as JSON.

python -m experiments.evaluate --workdir=runs/digits --checkpoint=best

or one of the trained networks that come with capsjax:

python -m experiments.evaluate --pretrained=efficient_capsnet_mnist

The scores may be the mean over several views of each image, such as 32 that are drawn
as the training images were (--views=augmented --num_views=32).

A run can also be tested on other images: one with smallNORB's novel azimuths on
familiar ones (--novel_viewpoint=azimuth_familiar), or one with expanded MNIST on
affNIST (--data_name=affnist).
"""

import json
import pathlib

from absl import flags

from capsjax.errors import UserError
from capsjax.runs import provenance, results
from capsjax.runs.progress import Progress
from capsjax.training import views
from capsjax.training.trained import evaluate, restore
from experiments import launch
from experiments.run_flags import RunFlags

_DATA_DIR = launch.define_data_dir()
_RUN = RunFlags(other_images=True)
_SPLIT = flags.DEFINE_enum(
    "split", "test", ["test", "validation", "train"], "Images to evaluate on."
)
_DATA_NAME = flags.DEFINE_string(
    "data_name",
    None,
    "Another data set with images of the same size and classes of the run, such as "
    "affnist for a run on expanded; by default the run's.",
)
_DATA_PATH = flags.DEFINE_string(
    "data_path",
    None,
    "Another folder or NPZ file of images than the run's, with classes of the run; or "
    "the run's, if they have been moved.",
)
_NOVEL_VIEWPOINT = flags.DEFINE_string(
    "novel_viewpoint",
    None,
    "Other viewpoints of smallnorb than the run's, such as azimuth_familiar after "
    "azimuth; see config.data.novel_viewpoint.",
)
_VIEWS = flags.DEFINE_enum(
    "views",
    "one",
    views.NAMES,
    "What the network sees of each image: the image; its mirror image, too; crops of "
    "the corners and the middle, mirrored, too; or images augmented as in training.",
)
_NUM_VIEWS = flags.DEFINE_integer(
    "num_views", 16, "Number of augmented views.", lower_bound=1
)
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "CSV file to which the metrics are appended as a row, with their provenance.",
)


def main() -> None:
    """Restores the parameters and evaluates them."""
    folder = _RUN.folder
    others = {
        "name": _DATA_NAME.value,
        "path": _DATA_PATH.value,
        "novel_viewpoint": _NOVEL_VIEWPOINT.value,
    }
    changes = {name: value for name, value in others.items() if value is not None}
    data = launch.load_run_data(folder, _DATA_DIR.value, changes)
    images = {"test": data.test, "validation": data.validation, "train": data.train}[
        _SPLIT.value
    ]
    if not len(images):
        raise UserError(
            f"the run in {folder.path} has no {_SPLIT.value} images "
            "(config.data.validation_examples is 0)"
        )
    model = restore(folder, data, _RUN.checkpoint)
    with Progress("evaluating", len(images), unit="images") as progress:
        seen = views.Views(_VIEWS.value, _NUM_VIEWS.value)
        found = evaluate(model, images, on_batch=progress.advance, views=seen)
    about = {
        "step": model.step,
        "split": _SPLIT.value,
        "views": seen.in_words(),
        "examples": len(images),
        "data": data.provenance,
    }
    print(json.dumps(about | found.metrics, indent=2))
    if _OUTPUT.value is not None:
        training = {
            **model.config.model.columns(),
            "seed": model.config.seed,
            **provenance.fingerprint(model.variables.params),
        }
        row = results.row(
            provenance.environment(), training | about | dict(found.metrics)
        )
        results.append(pathlib.Path(_OUTPUT.value), [row])


if __name__ == "__main__":
    launch.run(main)
