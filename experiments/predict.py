"""Says what image files show: their classes, by a trained network.

python -m experiments.predict --workdir=runs/mine photo.jpg holiday/ \
    --output=predictions.csv

IMAGES... are image files, and folders with images at any depth, without labels. They
are read as the training images were, and the first lines say what was done to them: the
run's size, gray or RGB, and value of white. The run's data need not be there.

For a network with a decoder each line ends with the reconstruction's error, the
distance between the image and what the decoder draws of the predicted class. If the
run's data are there, too, an error larger than that of 95 % of its validation images
is marked as unusual: the image is unlike those of training, and its class is worth
little. That an error is usual does not make the class right.
"""

import pathlib

from absl import flags

from capsjax.errors import UserError
from capsjax.inference import predictions_as_text
from capsjax.inference.predict_files import FilePredictor
from capsjax.runs.folder import write_whole
from experiments import launch
from experiments.run_flags import RunFlags

_DATA_DIR = launch.define_data_dir()
_RUN = RunFlags()
_TOP = flags.DEFINE_integer(
    "top", 1, "Number of classes to name for each image, best first.", lower_bound=1
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "CSV file to write, with a row for each image."
)
_MAX_VALUE = flags.DEFINE_float(
    "max_value",
    None,
    "Value of white in the files, such as 4095 for 12 bits in 16-bit files; 0: the "
    "largest of the file's format. By default that of a run on a folder of images, "
    "config.data.max_value.",
    lower_bound=0,
)
_COMPARE = flags.DEFINE_bool(
    "compare",
    True,
    "Loads the run's data, if they are there, to say which reconstructions are "
    "unusual.",
)


def main(images: list[str]) -> None:
    """Predicts, prints and writes the rows."""
    predictor = FilePredictor(
        _RUN.folder, which=_RUN.checkpoint, max_value=_MAX_VALUE.value
    )
    found = predictor.predict(images, shown=True)
    for line in (*found.changes, *predictions_as_text.not_read(found)):
        print(line)
    usual = None
    if predictor.has_decoder and _COMPARE.value:
        try:
            usual = predictor.usual(_RUN.load_data(_DATA_DIR.value))
            print(predictions_as_text.what_is_usual(usual))
        except UserError as error:
            print(
                "reconstruction errors are not compared with those of the run's "
                f"images: {error}"
            )
    for line in predictions_as_text.lines(found, usual, _TOP.value):
        print(line)
    if _OUTPUT.value is not None:
        path = pathlib.Path(_OUTPUT.value).expanduser()
        rows = predictions_as_text.csv_rows(found, usual, _TOP.value)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, rows.encode())
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from error
        print(f"{len(found.files)} rows in {path}")


if __name__ == "__main__":
    launch.run(main, positional="IMAGES...")
