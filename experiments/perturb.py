"""Draws what each dimension of the class capsules means, like the paper's figure 4.

python -m experiments.perturb --workdir=runs/digits --class_name=7

One test image of a class is reconstructed again and again, each time with one dimension
of its class capsule changed by -0.25 to 0.25 in steps of 0.05. The class gets a figure,
perturbation_CLASS.png; without --class_name each of the first ten classes does.
"""

import pathlib
import urllib.parse

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from capsjax import figures
from capsjax.analyses import perturbation
from capsjax.analyses.figures import perturbation as plots_perturbation
from capsjax.errors import UserError
from capsjax.training import augment
from capsjax.training.trained import restore
from experiments import launch
from experiments.run_flags import RunFlags

_DATA_DIR = launch.define_data_dir()
_RUN = RunFlags()
_CLASS_NAME = flags.DEFINE_string(
    "class_name",
    None,
    "Name of the class; by default a figure of each of the first ten classes.",
)
_EXAMPLE = flags.DEFINE_integer(
    "example", 0, "Number of the class's test image, from 0.", lower_bound=0
)
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "Folder of the figures; by default WORKDIR/plots, or plots here for a pretrained "
    "network.",
)


def main() -> None:
    """Restores the parameters and draws the figures."""
    folder = _RUN.folder
    config = folder.load_config()
    data = _RUN.load_data(_DATA_DIR.value)
    labels = perturbation.classes_of(data, _CLASS_NAME.value)
    examples = [
        perturbation.example_of(data, label, _EXAMPLE.value) for label in labels
    ]
    model = restore(folder, data, _RUN.checkpoint)
    perturbed = perturbation.make_perturbations(model.graphdef, config)
    variables = jax.device_put(model.variables)
    output = pathlib.Path(_OUTPUT.value or _RUN.output("plots")).expanduser()
    for label, image in zip(labels, examples, strict=True):
        name = data.class_names[label]
        figure = plots_perturbation.dimensions(
            f"{data.title}, class {name}: the dimensions of its capsule\n"
            f"run {folder.path.name}, step {model.step}",
            np.asarray(augment.for_evaluation(jnp.asarray(image[None]), config)[0]),
            np.asarray(perturbed(variables, image, label)),
            perturbation.DELTAS,
        )
        # A class name may contain characters that a file name cannot.
        path = output / f"perturbation_{urllib.parse.quote(name, safe=' ')}.png"
        try:
            output.mkdir(parents=True, exist_ok=True)
            figures.save(figure, path)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from error
        print(path)
    if _CLASS_NAME.value is None and (left_out := perturbation.left_out(data)):
        print(left_out)


if __name__ == "__main__":
    launch.run(main)
