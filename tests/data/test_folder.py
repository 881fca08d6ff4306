"""Folders of images."""

import numpy as np
import pytest
from PIL import Image

from capsjax import data
from capsjax.errors import UserError


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(path, **options)


def gray(value, shape=(6, 7)):
    return np.full(shape, value, np.uint8)


def test_folder_with_train_and_test(tmp_path):
    pixels = {}
    for part, n in (("train", 3), ("test", 2)):
        for name in ("zebra", "ant"):
            rng = np.random.default_rng([n, len(name)])
            pixels[part, name] = rng.integers(0, 256, (n, 6, 7), np.uint8)
            for i, image in enumerate(pixels[part, name]):
                save(tmp_path / part / name / f"{i}.PNG", image)
    (tmp_path / "train/ant/notes.txt").write_text("ignored")
    (tmp_path / "train/ant/.hidden.png").write_text("ignored")
    (tmp_path / "train/.cache").mkdir()
    (tmp_path / "val").mkdir()

    found = data.load("folder", path=str(tmp_path))

    assert found.class_names == ("ant", "zebra")
    assert found.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.test.labels.tolist() == [0, 0, 1, 1]
    for part, part_set in (("train", found.train), ("test", found.test)):
        wanted = np.concatenate([pixels[part, "ant"], pixels[part, "zebra"]])
        np.testing.assert_array_equal(part_set.images, wanted[..., None])
    assert tmp_path.name in found.provenance
    assert "not used: val" in found.provenance


def test_folder_without_a_test_set(tmp_path):
    for label, name in enumerate(("a", "b")):
        for i in range(100):
            save(tmp_path / name / f"{i}.png", gray(100 * label + i))
    found = data.load("folder", path=str(tmp_path), validation_examples=20)
    assert len(found.validation) == 20
    assert 20 <= len(found.test) <= 60  # 40 is expected, with a deviation of 6.
    for part in (found.train, found.validation, found.test):
        assert np.bincount(part.labels).min() >= 8
        np.testing.assert_array_equal(part.images[:, 0, 0, 0] // 100, part.labels)
    every = [
        x for part in (found.train, found.validation, found.test) for x in part.images
    ]
    assert len({image.tobytes() for image in every}) == len(every) == 200
    again = data.load("folder", path=str(tmp_path))
    np.testing.assert_array_equal(again.test.images, found.test.images)
    assert "held out here" in found.provenance


def test_a_class_may_be_called_train(tmp_path):
    for name in ("car", "train"):
        for i in range(3):
            save(tmp_path / name / f"{i}.png", gray(100 * i))
    assert data.load("folder", path=str(tmp_path)).class_names == ("car", "train")


def test_one_colour_image_makes_all_colour(tmp_path):
    colour = np.random.default_rng(0).integers(0, 256, (6, 7, 3), np.uint8)
    for part in ("train", "test"):
        save(tmp_path / part / "a" / "0.png", gray(50))
        save(tmp_path / part / "b" / "0.png", colour)
    found = data.load("folder", path=str(tmp_path))
    assert found.image_shape == (6, 7, 3)
    np.testing.assert_array_equal(found.train.images[0], gray(50, (6, 7, 3)))
    np.testing.assert_array_equal(found.train.images[1], colour)


def palette_image(colours):
    image = Image.new("P", (2, 1))
    image.putpalette([value for colour in colours for value in colour])
    image.putdata([0, 1])
    return image


TRANSPARENT = np.array([[[9, 9, 9, 0], [200, 100, 0, 255]]], np.uint8)


@pytest.mark.parametrize(
    ("image", "suffix", "wanted"),
    [
        (Image.fromarray(np.array([[False, True]])), "png", [[0], [255]]),
        (
            Image.fromarray(np.array([[0x12FF, 0xFF00]], np.uint16)),
            "png",
            [[18], [255]],
        ),
        (palette_image([(1, 1, 1), (70, 70, 70)]), "png", [[1], [70]]),
        (palette_image([(1, 2, 3), (70, 7, 7)]), "gif", [[1, 2, 3], [70, 7, 7]]),
        (Image.fromarray(TRANSPARENT), "png", [[255] * 3, [200, 100, 0]]),
        (Image.fromarray(TRANSPARENT[..., 2:]), "png", [[255], [0]]),
    ],
    ids=["1 bit", "16 bits", "gray palette", "palette", "RGBA", "LA"],
)
def test_other_modes(image, suffix, wanted, tmp_path):
    for part in ("train", "test"):
        save(tmp_path / part / "a" / f"0.{suffix}", image)
    found = data.load("folder", path=str(tmp_path))
    assert found.train.images[0, 0].tolist() == wanted


def test_rotation_tag_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown rotated by 90 degrees clockwise.
    stored = np.zeros((8, 16), np.uint8)
    stored[:, :8] = 255
    for part in ("train", "test"):
        save(tmp_path / part / "a" / "0.jpg", stored, exif=exif)
    found = data.load("folder", path=str(tmp_path)).train.images[0, ..., 0]
    assert found.shape == (16, 8)
    assert found[:7].min() > 200
    assert found[9:].max() < 50


def test_folder_sizes(tmp_path):
    save(tmp_path / "train/a/0.png", gray(10))
    save(tmp_path / "train/a/1.png", gray(130, (9, 5)))
    save(tmp_path / "test/a/0.png", gray(20))
    pair = f"{tmp_path}/train/a/0.png is 7x6 but {tmp_path}/train/a/1.png is 5x9"
    with pytest.raises(UserError, match=f"{pair}; give image_size"):
        data.load("folder", path=str(tmp_path))
    found = data.load("folder", path=str(tmp_path), image_size=4)
    assert found.image_shape == (4, 4, 1)
    assert found.train.images[:, 0, 0, 0].tolist() == [10, 130]


def test_bad_folders(tmp_path):
    def refused(message):
        with pytest.raises(UserError, match=message):
            data.load("folder", path=str(tmp_path / "root"))

    refused(f"no folder {tmp_path}/root; wanted ROOT/train")
    root = tmp_path / "root"
    root.mkdir()
    refused(f"no class folders in {root}; wanted ROOT/train")
    save(root / "train/a/0.png", gray(0))
    refused("a folder train of classes but not a test or validation folder")
    save(root / "test/b/0.png", gray(0))
    refused(f"{root}/test has the classes b, which {root}/train does not have")
    (root / "test/b/0.png").unlink()
    save(root / "test/a/0.png", gray(0))
    (root / "train/b").mkdir()
    refused(f"no image in the class folder {root}/train/b")
    (root / "train/b/0.png").write_bytes(b"")
    refused(f"cannot read the image {root}/train/b/0.png")
    save(root / "train/b/0.png", gray(9))
    whole = (root / "train/b/0.png").read_bytes()
    (root / "train/b/0.png").write_bytes(whole[:50])
    refused(f"cannot read the image {root}/train/b/0.png")
    (root / "train/b/0.png").unlink()
    save(root / "train/b/0.tif", Image.new("F", (7, 6)))
    refused(f"{root}/train/b/0.tif: pixels of 32 bits")


def test_folder_too_small_to_split(tmp_path):
    save(tmp_path / "a/0.png", gray(0))
    save(tmp_path / "b/0.png", gray(0))
    save(tmp_path / "b/1.png", gray(200))
    with pytest.raises(UserError, match=r"test set is split: .*class 0 has a single"):
        data.load("folder", path=str(tmp_path))
