"""Data that have changed since a run was trained on them."""

import dataclasses

import numpy as np
import pytest

from capsjax.data import Dataset, ImageSet
from capsjax.errors import UserError
from capsjax.runs import data_record
from capsjax.runs.folder import RunFolder
from tests.runs.test_results import made_run

CLASSES = ("cat", "dog", "fox")


def made(class_names=CLASSES, n=6, shape=(4, 5, 1), seed=0, **options):
    rng = np.random.default_rng(seed)
    train, validation, test = (
        ImageSet(
            rng.integers(0, 256, (m, *shape), np.uint8),
            (np.arange(m) % len(class_names)).astype(np.int32),
        )
        for m in (n, 3, 3)
    )
    names = tuple(class_names)
    return Dataset("made", train, validation, test, names, "made up", **options)


@pytest.fixture
def folder(tmp_path):
    """A run's folder that has recorded `made()`."""
    found = RunFolder(tmp_path)
    data_record.record(found, made(data_dir="/where/it/was"))
    return found


def test_the_same_data_pass(folder):
    data_record.check_same(folder, made())
    assert data_record.fitted(folder, made()).class_names == CLASSES
    assert data_record.recorded_data_dir(folder) == "/where/it/was"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"class_names": ("dog", "fox", "kitten")},
            "the classes were cat, dog, fox, and are now dog, fox, kitten; restore",
        ),
        ({"class_names": ("cat", "dog")}, "and are now cat, dog"),
        ({"n": 7}, "run in .*: 7 train images in place of 6; restore"),
        ({"seed": 1}, "the same number of images, but sha256 .* in place of sha256 "),
        (
            {"shape": (4, 5, 3)},
            "images were 5x4 with 1 channel, and are now 5x4 with 3 channels; restore",
        ),
        ({"content": "mnist 3.0.2"}, "but mnist 3.0.2 in place of sha256"),
    ],
)
def test_other_data_are_refused(changed, message, folder):
    with pytest.raises(UserError, match=message):
        data_record.check_same(folder, made(**changed))


def test_one_label_makes_other_data():
    one, other = made(), made()
    other.train.labels[0] += 1
    assert dataclasses.replace(other, content="").content != one.content


def test_classes_of_other_data_get_the_runs_numbers(folder):
    """In another order, or some of them only."""
    other = made(("fox", "cat"))
    found = data_record.fitted(folder, other)
    assert found.class_names == CLASSES
    for name, part in found.parts().items():
        names = [other.class_names[label] for label in other.parts()[name].labels]
        assert [CLASSES[label] for label in part.labels] == names
        np.testing.assert_array_equal(part.images, other.parts()[name].images)


def test_other_data_that_do_not_suit_are_refused(folder):
    with pytest.raises(
        UserError, match=r"the classes kitten, which .* are cat, dog, fo"
    ):
        data_record.fitted(folder, made(("cat", "kitten")))
    with pytest.raises(UserError, match=r"now 5x4 with 3 channels"):
        data_record.fitted(folder, made(shape=(4, 5, 3)))


def test_many_classes_are_not_all_listed(tmp_path):
    folder = RunFolder(tmp_path)
    data_record.record(folder, made([f"class{i}" for i in range(200)], n=400))
    with pytest.raises(UserError) as caught:
        data_record.check_same(folder, made([f"kind{i}" for i in range(200)], n=400))
    assert "class7 and 192 more" in str(caught.value)
    assert len(str(caught.value)) < 600


def test_runs_of_earlier_versions_are_not_compared(tmp_path):
    folder = RunFolder(tmp_path)
    data_record.check_same(folder, made())
    assert data_record.fitted(folder, made()).class_names == CLASSES
    assert data_record.recorded_data_dir(folder) is None


def test_the_title_is_the_recorded_one_or_else_that_of_the_config(tmp_path):
    folder = made_run(tmp_path, **{"data.name": "multimnist", "data.base": "digits"})
    assert data_record.title(folder) == "pairs of scikit-learn's digits"
    data_record.record(folder, made(title="what it was"))
    assert data_record.title(folder) == "what it was"


def test_a_damaged_record_is_one_clear_error(folder):
    folder.data.write_text("{")
    with pytest.raises(UserError, match=r"cannot read .*data\.json"):
        data_record.check_same(folder, made())
