"""The digits data set that comes with scikit-learn and needs no download."""

import numpy as np

from capsjax.data.datasets import Dataset, as_image_set, empty_like
from capsjax.data.source import Source
from capsjax.data.splits import SPLIT_SEED, carve

NUM_TEST = 360
"""A fifth of the 1797 images."""


def load(source: Source, data_dir: str | None = None) -> Dataset:
    """Loads 1797 handwritten digits, 8x8 pixels, in 10 classes.

    scikit-learn stores values 0..16; they are scaled to 0..255. There is no official
    split: 360 test images are held out, the same in every run.

    Args:
        source: unused; the data set has no settings.
        data_dir: unused; the images come with scikit-learn.

    Returns:
        The data set: 1437 training images uint8 [8, 8, 1] and 360 test images.
    """
    del source, data_dir
    # Imported here since it takes a second, which most runs need not spend.
    import sklearn
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    train, test = carve(
        as_image_set(images, bunch.target, "digits"), NUM_TEST, SPLIT_SEED
    )
    return Dataset(
        name="digits",
        train=train,
        validation=empty_like(train),
        test=test,
        class_names=tuple(str(name) for name in bunch.target_names),
        provenance=(
            f"the {len(images)} 8x8 handwritten digits in scikit-learn "
            f"{sklearn.__version__} (the test part of UCI's Optical Recognition of "
            f"Handwritten Digits); {NUM_TEST} of them held out here as the test set"
        ),
        content="the digits of scikit-learn",
    )
