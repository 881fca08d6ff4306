"""Sizes of data sets that are known without loading them."""

import dataclasses

import numpy as np
import pytest
import tensorflow_datasets as tfds

from capsjax import data
from capsjax.data import Sizes, Source
from capsjax.data.source import FROM_PATH

DIGITS = Sizes((8, 8, 1), 10)


def sizes(**fields) -> Sizes:
    return data.sizes(**dataclasses.asdict(Source(**fields)))


@pytest.mark.parametrize("name", sorted(data.DATASETS.keys() - set(FROM_PATH)))
def test_stored_sizes_are_those_of_the_data_set(name, tmp_path):
    """By the code that loads what needs no file, else by TFDS."""
    if name in ("digits", "mnist1d", "faces"):
        loaded = data.load(name)
        assert sizes(name=name) == (loaded.image_shape, loaded.num_classes)
        return
    features = tfds.builder(name, data_dir=str(tmp_path)).info.features
    H, W, C = features["image"].shape
    label = "label"
    if name == "smallnorb":  # Halved, with a channel for each camera.
        H, W, C, label = H // 2, W // 2, 2 * C, "label_category"
    assert sizes(name=name) == ((H, W, C), features[label].num_classes)


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "digits", "image_size": 12},
        *({"name": name, "base": "digits", "canvas": 20} for name in data.DERIVED),
        {"name": "expanded", "base": "digits", "image_size": 12, "canvas": 30},
    ],
)
def test_resized_and_derived_sizes_are_those_of_the_loaded_data(fields):
    loaded = data.load(**dataclasses.asdict(Source(validation_examples=100, **fields)))
    assert sizes(**fields) == (loaded.image_shape, loaded.num_classes)


def test_ones_own_images_are_loaded(tmp_path):
    path = tmp_path / "own.npz"
    images = np.arange(12 * 6 * 5 * 3, dtype=np.uint8).reshape(12, 6, 5, 3)
    labels = np.arange(12) % 4
    np.savez(path, x_train=images, y_train=labels, x_test=images[::-1], y_test=labels)
    fields = {"name": "npz", "path": str(path), "validation_examples": 0}
    assert sizes(**fields) == ((6, 5, 3), 4)
