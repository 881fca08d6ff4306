"""smallNORB: photographs of toys in five classes, by two cameras, from 162 viewpoints.

The training and test images show different toys. Each of the 24,300 photographs of
either is one image of 48x48 pixels with the two cameras' views as its channels.
"""

import numpy as np
import numpy.typing as npt

from capsjax.data.datasets import Dataset, empty_like
from capsjax.data.source import Source
from capsjax.data.sources import tfds_sets
from capsjax.data.sources.tfds_sets import Split
from capsjax.errors import UserError

# In TFDS's counting: 20 degrees apart from 0, and 5 degrees apart from 30.
_AZIMUTH, _ELEVATION = "label_azimuth", "label_elevation"
_FAMILIAR: dict[str, tuple[str, tuple[int, ...]]] = {
    "azimuth": (
        _AZIMUTH,
        tuple(degrees // 20 for degrees in (0, 20, 40, 300, 320, 340)),
    ),
    "elevation": (_ELEVATION, (0, 1, 2)),
}
"""The viewpoints to train on: their feature and its values."""

NOVEL_VIEWPOINTS = (
    "",
    *(f"{kind}{end}" for kind in _FAMILIAR for end in ("", "_familiar")),
)
"""The values of `Source.novel_viewpoint`."""


def load(source: Source, data_dir: str | None = None) -> Dataset:
    """Loads smallNORB, as prepared by TensorFlow Datasets.

    Sides are halved by averaging squares of 2x2 pixels, rounded.

    `source.novel_viewpoint` chooses the photographs:

    ``""``
        All: the official split.
    ``"azimuth"``
        Trains on the azimuths 300, 320, 340, 0, 20 and 40 degrees, a third of the
        training photographs; tests on test photographs of the others, 60 to 280.
    ``"elevation"``
        Trains on the three smallest elevations, 30, 35 and 40 degrees; tests on the six
        larger ones.
    ``"azimuth_familiar"``, ``"elevation_familiar"``
        The same training photographs, but the test photographs of these viewpoints. The
        protocol compares models whose error on them is the same.

    Args:
        source: the data set's settings, of which `novel_viewpoint` counts, see above.
        data_dir: the TensorFlow Datasets directory; None is TFDS's own default.

    Returns:
        Images uint8 [N, 48, 48, 2], and the stored names of the five classes.

    Raises:
        UserError: an unknown `novel_viewpoint`, or a data set that is not prepared
            there or damaged.

    References:
        Sabour, Frosst and Hinton 2017, section 7 (sizes); Hinton, Sabour and Frosst
        2018, "Matrix capsules with EM routing", section 5.1 (novel viewpoints).
    """
    novel = source.novel_viewpoint
    if novel not in NOVEL_VIEWPOINTS:
        raise UserError(
            f"unknown novel_viewpoint {novel!r}; choose "
            f"{', '.join(NOVEL_VIEWPOINTS[1:])}, or '' for the official split"
        )
    builder = tfds_sets.open_prepared("smallnorb", data_dir)
    train, test = (
        tfds_sets.read_split(
            builder,
            split,
            image_features=("image", "image2"),
            label_features=("label_category", _AZIMUTH, _ELEVATION),
            transform=_halved,
        )
        for split in ("train", "test")
    )
    train_set, test_set = (part.image_set("label_category") for part in (train, test))
    provenance = tfds_sets.provenance(builder, train, test)
    if novel:
        kind = novel.removesuffix("_familiar")
        wanted = _is_familiar(test, kind)
        train_set = train_set.take(np.flatnonzero(_is_familiar(train, kind)))
        test_set = test_set.take(
            np.flatnonzero(wanted if novel.endswith("_familiar") else ~wanted)
        )
        provenance += f"; viewpoints of the split {novel}"
    return Dataset(
        name="smallnorb",
        train=train_set,
        validation=empty_like(train_set),
        test=test_set,
        class_names=tuple(builder.info.features["label_category"].names),
        provenance=provenance,
        content=tfds_sets.content(builder),
    )


def _is_familiar(split: Split, kind: str) -> npt.NDArray[np.bool_]:
    """Marks the photographs, [N], with a viewpoint that "azimuth" (...) trains on."""
    feature, values = _FAMILIAR[kind]
    return np.isin(split.labels[feature], values)


def _halved(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Averages squares of 2x2 pixels of uint8 [H, W, C]; halves are rounded up."""
    wide = image.astype(np.uint16)
    rows = wide[::2] + wide[1::2]
    return ((rows[:, ::2] + rows[:, 1::2] + 2) // 4).astype(np.uint8)
