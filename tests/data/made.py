"""Made image sets, shared by the tests of data sets."""

import numpy as np

from capsjax import data


def image_set(labels, shape=(4, 5, 3), seed=0):
    """Random images with the given labels."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (len(labels), *shape), np.uint8)
    return data.ImageSet(images, np.array(labels, np.int32))


def numbered(n):
    """Images that carry their own number, in two classes."""
    images = np.arange(n, dtype=np.uint8)[:, None, None, None]
    return data.ImageSet(images, np.arange(n, dtype=np.int32) % 2)


def numbers(images):
    return images[:, 0, 0, 0].tolist()
