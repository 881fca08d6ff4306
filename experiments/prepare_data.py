"""Downloads data sets and prepares them on disk, without TensorFlow.

    python -m experiments.prepare_data --dataset=mnist,cifar10 --data_dir=DIR

The original files are downloaded from their publishers, or taken from --source_dir, and
their checksums are compared. A data set that is prepared already is not changed.
Without --data_dir, TensorFlow Datasets' default directory is used: the environment
variable TFDS_DATA_DIR, or else ~/tensorflow_datasets.
"""

from absl import flags

from capsjax.data import prepare
from capsjax.errors import UserError
from experiments import launch

_DATASET = flags.DEFINE_list(
    "dataset", [], f"Comma-separated data sets out of {', '.join(prepare.BUILDERS)}."
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "TensorFlow Datasets directory to prepare them in."
)
_SOURCE_DIR = flags.DEFINE_string(
    "source_dir",
    None,
    "Folder with the original files under their published names (for several data "
    "sets: one subfolder per data set), instead of downloading them.",
)


def main() -> None:
    """Prepares every data set that --dataset names."""
    names = list(dict.fromkeys(_DATASET.value))
    if not names:
        raise UserError(
            f"name the data sets by --dataset, out of {', '.join(prepare.BUILDERS)}"
        )
    if unknown := [name for name in names if name not in prepare.BUILDERS]:
        raise UserError(
            f"cannot prepare {', '.join(unknown)}; choose from "
            f"{', '.join(prepare.BUILDERS)}"
        )
    for name in names:
        print(prepare.prepare(name, _DATA_DIR.value, _SOURCE_DIR.value), flush=True)


if __name__ == "__main__":
    launch.run(main)
