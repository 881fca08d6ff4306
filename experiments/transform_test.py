"""Tests runs on turned, scaled, sheared, shifted and corrupted images.

python -m experiments.transform_test --workdirs=runs/capsnet,runs/cnn --output=DIR

Capsules are said to generalise over viewpoints; here that is measured. All runs see the
same test images, which are changed: the accuracy by the amount of the change, and the
difference to the first run, image by image, with 95 % intervals. The corruptions are
the fifteen of MNIST-C, written anew. The part "equivariance" asks what a movement of
the image does to the pose of the winning capsule: whether a linear map predicts it, and
whether the angle, size or place can be read from the pose; a network without capsules
has the input of its last dense layer in place of a pose.

Runs whose folders differ in seedN alone, or in the accuracy until which they were
trained, are trainings of one network: tables and figures show their means, with
intervals over images and trainings, and rows each run.

Networks are comparable if their accuracy on unchanged images is the same; the table
says where it is not. Turned by 180 degrees, a 6 is a 9: --without_classes=6,9.

Rows, tables and figures go to --output; experiments.report shows them. The same command
again goes on where the last one ended, and computes nothing that it finds there.
"""

import functools
import pathlib

from absl import flags

from capsjax.analyses.robustness import subjects, viewpoints
from capsjax.errors import UserError
from experiments import launch
from experiments.run_flags import RunsFlags

_DATA_DIR = launch.define_data_dir()
_RUNS = RunsFlags()
_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder of rows, tables and figures.", required=True
)
_TRANSFORMATIONS = flags.DEFINE_list(
    "transformations",
    list(viewpoints.PARTS),
    "What to test; by default everything.",
)
_NUM_IMAGES = flags.DEFINE_integer(
    "num_images",
    1000,
    "Test images that the runs see, chosen at random; 0 for all of them.",
    lower_bound=0,
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "Seed of the choice of images and of the corruptions.", lower_bound=0
)
_WITHOUT_CLASSES = flags.DEFINE_list(
    "without_classes", [], "Names of classes whose images are left out, such as 6,9."
)


def main() -> None:
    """Restores the networks and tests them."""
    parts = _TRANSFORMATIONS.value
    if unknown := [name for name in parts if name not in viewpoints.PARTS]:
        raise UserError(
            f"unknown {unknown[0]!r} in --transformations; choose from "
            f"{', '.join(viewpoints.PARTS)}"
        )
    if not parts:
        raise UserError("--transformations is empty; leave it out for all of them")
    data, models = _RUNS.restored(_DATA_DIR.value)
    chosen = subjects.choose(
        data, _NUM_IMAGES.value, seed=_SEED.value, without=_WITHOUT_CLASSES.value
    )
    tested = {
        name: subjects.Subject(name, _RUNS.folders[name], model)
        for name, model in models.items()
    }
    output = pathlib.Path(_OUTPUT.value).expanduser()
    say = functools.partial(print, flush=True)
    try:
        found = viewpoints.examine(tested, chosen, parts, output, say)
    except OSError as error:
        raise UserError(f"cannot write to {output}: {error.strerror}") from error
    print(f"\n{found.text}")
    for sentence in found.left_out:
        print(f"left out {sentence}")
    print(f"rows, tables and figures in {output}")


if __name__ == "__main__":
    launch.run(main)
