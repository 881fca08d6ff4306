"""Shows what a trained network has learned, and what each layer of it costs.

python -m experiments.inspect_network --workdir=runs/digits

Works for any network. It draws the first layer's filters before and after training;
feature maps by depth for some test images; the images that classes and units prefer, by
gradient ascent; where routing sends the primary capsules; what each layer sees of the
image, with its parameters; the time of each layer, forward and backward; and the test
error with weights of 32, 16, 8 and 1 bits. Figures and rows go to WORKDIR/inspection,
and experiments.report shows them with the run.
"""

import pathlib

from absl import flags

from capsjax.analyses import inspection
from capsjax.errors import UserError
from capsjax.training.trained import restore
from experiments import launch
from experiments.run_flags import RunFlags

_DATA_DIR = launch.define_data_dir()
_RUN = RunFlags()
_PARTS = flags.DEFINE_list(
    "parts", list(inspection.PARTS), "Questions to answer; by default all of them."
)
_EXAMPLES = flags.DEFINE_list(
    "examples", ["0", "1"], "Numbers of the test images that are shown, from 0."
)
_STEPS = flags.DEFINE_integer(
    "steps", 200, "Steps of gradient ascent on images.", lower_bound=1
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 16, "Images of a batch whose layers are timed.", lower_bound=1
)
_REPEATS = flags.DEFINE_integer(
    "repeats", 20, "Timed calls of each layer, in turn.", lower_bound=1
)
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "Folder of the files; by default WORKDIR/inspection, or inspection here for a "
    "pretrained network.",
)


def main() -> None:
    """Restores the parameters, and answers the questions."""
    if unknown := [name for name in _PARTS.value if name not in inspection.PARTS]:
        raise UserError(
            f"unknown {unknown[0]!r} in --parts; choose from "
            f"{', '.join(inspection.PARTS)}"
        )
    if not _EXAMPLES.value or not all(x.isdecimal() for x in _EXAMPLES.value):
        raise UserError(
            f"--examples={','.join(_EXAMPLES.value)} is not numbers from 0 with commas"
        )
    folder = _RUN.folder
    data = _RUN.load_data(_DATA_DIR.value)
    output = pathlib.Path(_OUTPUT.value or _RUN.output("inspection")).expanduser()
    inspected = inspection.Inspected(
        folder.path.name,
        restore(folder, data, _RUN.checkpoint),
        data,
        [*map(int, _EXAMPLES.value)],
        _STEPS.value,
        _BATCH_SIZE.value,
        _REPEATS.value,
        output,
    )
    try:
        left_out = inspection.inspect(inspected, _PARTS.value)
    except OSError as error:
        raise UserError(f"cannot write to {output}: {error.strerror}") from error
    for sentence in left_out:
        print(f"left out {sentence}")
    print(f"figures and rows in {output}")


if __name__ == "__main__":
    launch.run(main)
