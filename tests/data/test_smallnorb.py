"""smallNORB as a data set: its pixels, its channels and its viewpoints."""

import itertools

import numpy as np
import pytest
from PIL import Image

from capsjax import data
from capsjax.data import prepare
from capsjax.data.sources.smallnorb import NOVEL_VIEWPOINTS
from capsjax.errors import UserError
from tests.data.test_prepare import norb_files, register, write

# Every viewpoint once: azimuths as the original files have them, and elevations.
VIEWPOINTS = list(itertools.product(range(0, 36, 2), range(9)))
NAMES = ("four-legged animals", "human figures", "airplanes", "trucks", "cars")


def photographs(seed):
    """One from each viewpoint; both cameras' first four pixels are its number."""
    rng = np.random.default_rng(seed)
    n = len(VIEWPOINTS)
    azimuth, elevation = np.array(VIEWPOINTS)[rng.permutation(n)].T
    images = rng.integers(0, 256, (n, 2, 96, 96), np.uint8)
    images[:, 0, :2, :2] = np.arange(n)[:, None, None]
    images[:, 1, :2, :2] = 255 - np.arange(n)[:, None, None]
    # What a sum of bytes would overflow, and what is to be rounded.
    images[:, :, -2:, -2:] = 255
    images[:, :, :2, 2:6] = [[0, 1, 0, 0], [1, 0, 0, 1]]
    toy, lighting = rng.integers(0, 10, n), rng.integers(0, 6, n)
    return {
        "dat": images,
        "cat": np.arange(n, dtype=np.int32) % 5,
        "info": np.stack([toy, elevation, azimuth, lighting], 1).astype(np.int32),
    }


@pytest.fixture(scope="module")
def originals():
    return {"train": photographs(1), "test": photographs(2)}


@pytest.fixture(scope="module")
def data_dir(originals, tmp_path_factory):
    folder = tmp_path_factory.mktemp("smallnorb")
    files = norb_files(originals)
    with pytest.MonkeyPatch.context() as patch:
        register(patch, "smallnorb", files)
        prepare.prepare(
            "smallnorb", str(folder / "data"), write(folder / "files", files)
        )
    return folder / "data"


def load(data_dir, novel_viewpoint="", **options):
    return data.load(
        "smallnorb", data_dir=str(data_dir), novel_viewpoint=novel_viewpoint, **options
    )


def numbers(image_set):
    return image_set.images[:, 0, 0, 0].tolist()


def test_the_official_split(originals, data_dir):
    found = load(data_dir)
    assert found.image_shape == (48, 48, 2)
    assert found.class_names == NAMES
    assert len(found.validation) == 0
    assert "smallnorb 2.0.0" in found.provenance
    assert "viewpoints" not in found.provenance
    for split, image_set in (("train", found.train), ("test", found.test)):
        made = originals[split]
        assert sorted(numbers(image_set)) == list(range(len(VIEWPOINTS)))
        for number, image, label in zip(
            numbers(image_set), image_set.images, image_set.labels, strict=True
        ):
            assert label == made["cat"][number]
            for camera in range(2):
                # Pillow averages and rounds, too.
                whole = Image.fromarray(made["dat"][number, camera])
                np.testing.assert_array_equal(image[..., camera], whole.reduce(2))
            assert image[0, :3].tolist() == [[number, 255 - number], [1, 1], [0, 0]]
            assert image[-1, -1].tolist() == [255, 255]


def degrees(info):
    """Azimuth and elevation, as the data set's authors describe the numbers."""
    return 10 * info[:, 2], 30 + 5 * info[:, 1]


AZIMUTHS = [300, 320, 340, 0, 20, 40]


@pytest.mark.parametrize(
    ("novel_viewpoint", "trained", "tested", "num_train", "num_test"),
    [
        (
            "azimuth",
            lambda azimuth, _: np.isin(azimuth, AZIMUTHS),
            lambda azimuth, _: (azimuth >= 60) & (azimuth <= 280),
            54,
            108,
        ),
        (
            "azimuth_familiar",
            lambda azimuth, _: np.isin(azimuth, AZIMUTHS),
            lambda azimuth, _: np.isin(azimuth, AZIMUTHS),
            54,
            54,
        ),
        (
            "elevation",
            lambda _, elevation: elevation <= 40,
            lambda _, elevation: elevation >= 45,
            54,
            108,
        ),
        (
            "elevation_familiar",
            lambda _, elevation: elevation <= 40,
            lambda _, elevation: elevation <= 40,
            54,
            54,
        ),
    ],
    ids=NOVEL_VIEWPOINTS[1:],
)
def test_novel_viewpoints(
    novel_viewpoint, trained, tested, num_train, num_test, originals, data_dir
):
    found = load(data_dir, novel_viewpoint)
    assert (len(found.train), len(found.test)) == (num_train, num_test)
    for image_set, made, chosen in (
        (found.train, originals["train"], trained),
        (found.test, originals["test"], tested),
    ):
        wanted = np.flatnonzero(chosen(*degrees(made["info"]))).tolist()
        assert sorted(numbers(image_set)) == wanted
        assert image_set.labels.tolist() == [n % 5 for n in numbers(image_set)]
    assert found.provenance.endswith(f"; viewpoints of the split {novel_viewpoint}")


def test_familiar_viewpoints_are_tested_after_the_same_training(data_dir):
    novel, familiar = (
        load(data_dir, name, validation_examples=10)
        for name in ("azimuth", "azimuth_familiar")
    )
    for split in ("train", "validation"):
        assert numbers(getattr(novel, split)) == numbers(getattr(familiar, split))


def test_bad_input(data_dir, tmp_path):
    with pytest.raises(
        UserError, match=r"unknown novel_viewpoint 'azimut'; choose azimuth, .*official"
    ):
        load(data_dir, "azimut")
    with pytest.raises(UserError, match=r"is 'azimuth', but digits has no viewpoints"):
        data.load("digits", novel_viewpoint="azimuth")
    with pytest.raises(UserError, match=r"no smallnorb 2\.0\.0 in .*--dataset=smallno"):
        load(tmp_path)


def test_damaged_records(originals, tmp_path, monkeypatch):
    files = norb_files(
        {
            split: {kind: array[:3] for kind, array in made.items()}
            for split, made in originals.items()
        }
    )
    register(monkeypatch, "smallnorb", files)
    prepare.prepare("smallnorb", str(tmp_path), write(tmp_path / "f", files))
    (records,) = tmp_path.glob("smallnorb/2.0.0/smallnorb-test.array_record*")
    records.write_bytes(records.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"the test files of smallnorb in .*damaged"):
        load(tmp_path)
