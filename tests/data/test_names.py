"""Data sets are called what they are."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from capsjax import data
from capsjax.data import names
from tests.data.test_affnist import made_mnist, write_mat


@pytest.mark.parametrize(
    ("name", "base", "words"),
    [
        ("mnist", "mnist", "MNIST"),
        ("multimnist", "mnist", "MultiMNIST"),
        ("multimnist", "digits", "pairs of scikit-learn's digits"),
        ("expanded", "mnist", "expanded MNIST"),
        ("expanded", "digits", "expanded scikit-learn's digits"),
        ("affnist", "mnist", "affNIST"),
        ("cifar10", "mnist", "CIFAR-10"),
        ("folder", "mnist", "folder"),
    ],
)
def test_data_sets_in_words(name, base, words):
    assert names.in_words(name, base) == words


def test_every_published_set_has_a_name():
    for name in data.DATASETS.keys() - {"folder", "npz"}:
        assert names.in_words(name) != name


def test_own_images_have_the_name_of_their_folder_or_file(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / "MNIST" / name).mkdir(parents=True)
        for value in (1, 255):
            image = Image.new("L", (4, 4), value)
            image.save(tmp_path / "MNIST" / name / f"{value}.png")
    images, labels = np.zeros((4, 4, 4), np.uint8), np.arange(4) % 2
    images[:, 0] = 255
    np.savez(tmp_path / "mine.npz", images=images, labels=labels)
    monkeypatch.chdir(tmp_path / "MNIST")
    assert data.load("folder", path=".").title == "the folder MNIST"
    assert data.load("npz", path="../mine.npz").title == "the file mine.npz"
    path = str(tmp_path / "MNIST")
    pairs = data.load("multimnist", base="folder", path=path, canvas=6, shift=1)
    assert pairs.title == "pairs of the folder MNIST"


def test_what_is_generated_is_called_so(tmp_path):
    source = data.Source(canvas=40, shift=6)
    derive = data.DERIVED["affnist"]
    assert derive(made_mnist(), source).title == "generated affNIST"
    digits = data.load("affnist", base="digits", canvas=12, shift=2)
    assert digits.title == "generated affNIST of scikit-learn's digits"
    write_mat(
        tmp_path / "affnist" / "test.mat",
        np.zeros((3, 40, 40), np.uint8),
        np.arange(3),
        np.arange(3),
    )
    published = dataclasses.replace(made_mnist(), data_dir=str(tmp_path))
    assert derive(published, source).title == "affNIST"
