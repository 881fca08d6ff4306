"""The settings of a data set, with their defaults and bounds."""

import dataclasses
from pathlib import Path

from capsjax import fields
from capsjax.errors import UserError
from capsjax.fields import field

FROM_PATH = ("folder", "npz", "spoken_digits")
"""Names of the data sets that are read from a `path`."""


@dataclasses.dataclass(kw_only=True, slots=True)
class Source(fields.Config):
    """The data set of a run, ``config.data``: which one, and how it is made."""

    name: str = field("mnist", "Name from capsjax.data.DATASETS or DERIVED.")
    path: str = field(
        "",
        "Your own images: a folder, or a CSV file of file names and labels (data.name "
        "folder), or an NPZ file (npz); folder or zip file of the recordings of "
        "spoken_digits. A run goes on where they have moved to.",
        may_change=True,
    )
    image_size: int = field(
        0, "Side in pixels to which images are resized; 0: as stored.", at_least=0
    )
    max_value: float = field(
        0.0,
        "Value of white in your own images, such as 4095 for 12 bits in 16-bit files; "
        "0: the largest of the file's format, refused where images hardly use it.",
        at_least=0,
    )
    split: str = field(
        "content",
        "Choice of your own images for testing and validation, where they are not "
        "divided already: content, by a hash of each file, so that added files move no "
        "others; or random.",
        choices=("content", "random"),
        before="random",
    )
    parts: str = field(
        "given",
        "Parts of your own images: given, each part is what its name says, such as "
        "train, val and test, and a validation part is the validation set; or "
        "train_and_test, as in earlier versions: no other names, and no validation "
        "part is used.",
        choices=("given", "train_and_test"),
        before="train_and_test",
    )
    validation_examples: int = field(
        5_000,
        "Training images held out for validation; the split is the same for all seeds. "
        "Of no effect where your own images have a validation part.",
        at_least=0,
    )
    train_per_class: int = field(
        0,
        "Training images of each class, repeated so that an epoch stays as long as it "
        "is with all of them; 0: all.",
        at_least=0,
    )
    train_choice: int = field(
        0,
        "Number of the random choice of these images; more of one choice contain fewer "
        "of it.",
        at_least=0,
        changes_result=False,
    )
    base: str = field(
        "mnist", "Data set of single digits that derived data sets are made from."
    )
    canvas: int = field(
        40, "Side in pixels of the canvas on which those place each digit.", at_least=1
    )
    shift: int = field(
        6, "Largest shift of a digit from the canvas's centre, in pixels.", at_least=0
    )
    versions_per_digit: int = field(
        1,
        "multimnist: pairs with each validation and test digit as their first one; "
        "affnist: transformed versions of each test digit, if they are generated.",
        at_least=1,
    )
    novel_viewpoint: str = field(
        "",
        "smallnorb: azimuth or elevation trains on some viewpoints and tests on "
        "others, azimuth_familiar or elevation_familiar on the same; empty: official. "
        "extruded: azimuth or azimuth_familiar, likewise of the digits' turns.",
    )
    held_out_speaker: str = field(
        "",
        "spoken_digits: speaker whose recordings are the test set, and no others; "
        "empty: official.",
    )
    without_doodles: bool = field(
        False,
        "faces: nothing stands in the place of a missing part; by default a doodle "
        "does in half of all cases.",
    )
    scrambled_share: float = field(
        0.0,
        "faces: share of the training images without a face that are faces whose parts "
        "are shuffled, to see whether that can be learned.",
        at_least=0,
        at_most=1,
    )

    def unused(self) -> frozenset[str]:
        """Names of fields that do not matter for this data set."""
        own = frozenset({"max_value", "split", "parts"})
        if self.name in ("folder", "npz"):
            return frozenset()
        return own if self.name in FROM_PATH else own | {"path"}

    def own_path(self, what: str) -> Path:
        """Returns `path`, absolute and with ~ expanded.

        Args:
            what: a description of the file or folder, for the error text.

        Raises:
            UserError: no path was given, or it cannot be followed or written as text.
        """
        if not self.path:
            raise UserError(f"no path is given; set config.data.path to {what}")
        try:
            path = Path(self.path).expanduser().absolute()
            check_name(path.resolve())
            path.exists()
        # Without a home directory it is a RuntimeError, as for links in a circle.
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"cannot follow {self.path} ({error}); set config.data.path to {what}"
            ) from error
        return path


def check_name(path: Path) -> None:
    """Refuses a file or folder whose name, any bytes, is not text in UTF-8.

    Raises:
        UserError: it cannot be decoded.
    """
    try:
        path.name.encode()
    except UnicodeEncodeError:
        shown = str(path).encode(errors="backslashreplace").decode()
        raise UserError(
            f"the name of {shown} is not text in UTF-8; rename it"
        ) from None
