"""Loading data sets, splitting and batching them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from capsjax import data
from capsjax.data.datasets import as_image_set, resize
from capsjax.errors import UserError


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


def dataset(train, validation, test, num_classes):
    names = tuple(map(str, range(num_classes)))
    return data.Dataset("made", train, validation, test, names, "made up")


# The types.


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 3, 3, 1)), np.zeros(2, int), "dtype float64; store .* uint8"),
        (np.zeros((2, 3, 3, 1), np.int64), np.zeros(2, int), "dtype int64; store"),
        (np.zeros((2, 3), np.uint8), np.zeros(2, int), r"shape \(2, 3\); wanted \[N"),
        (np.zeros((2, 3, 9, 9), np.uint8), np.zeros(2, int), "channels last"),
        (np.zeros((2, 0, 9, 1), np.uint8), np.zeros(2, int), r"shape \(2, 0, 9, 1\)"),
        (np.zeros((2, 9, 9), np.uint8), np.zeros(3, int), "2 images but 3 labels"),
        (np.zeros((2, 9, 9), np.uint8), np.zeros(2), "labels have dtype float64"),
        (np.zeros((2, 9, 9), np.uint8), np.zeros(2, bool), "labels have dtype bool"),
        (np.zeros((2, 9, 9), np.uint8), np.eye(2, dtype=int), "one-hot"),
        (np.zeros((2, 9, 9), np.uint8), np.array([0, -1]), r"labels span -1\.\.0"),
        (np.zeros((2, 9, 9), np.uint8), np.array([0, 2**31]), "labels span"),
    ],
)
def test_arrays_that_are_no_labelled_images(images, labels, message):
    with pytest.raises(UserError, match=f"^here: .*{message}"):
        as_image_set(images, labels, "here")


def test_arrays_that_are_labelled_images():
    gray = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    found = as_image_set(gray, np.array([[7], [9]], np.uint8), "here")
    np.testing.assert_array_equal(found.images[..., 0], gray)
    assert found.images.shape == (2, 3, 4, 1)
    assert found.labels.dtype == np.int32
    assert found.labels.tolist() == [7, 9]
    assert len(found) == 2


def test_image_set_wants_its_dtypes():
    with pytest.raises(UserError, match=r"labels have dtype int64 and shape \(1,\)"):
        data.ImageSet(np.zeros((1, 2, 2, 1), np.uint8), np.zeros(1, np.int64))


def test_dataset_checks_its_parts():
    good, empty = image_set([0, 1]), image_set([])
    assert dataset(good, empty, good, 2).num_classes == 2
    assert dataset(good, empty, good, 2).image_shape == (4, 5, 3)
    with pytest.raises(UserError, match="made: the test set is empty"):
        dataset(good, empty, empty, 2)
    with pytest.raises(UserError, match="made: the train set is empty"):
        dataset(empty, good, good, 2)
    with pytest.raises(UserError, match=r"train images have .*\(4, 5, 3\) but test"):
        dataset(good, empty, image_set([0], (5, 5, 3)), 2)
    with pytest.raises(UserError, match=r"validation labels span 0\.\.2 but .* 2 clas"):
        dataset(good, image_set([0, 2]), good, 2)


# Splits.


def test_carve_is_a_stratified_partition():
    whole = image_set([0] * 60 + [1] * 30 + [2] * 10)
    rest, held_out = data.carve(whole, 20, seed=3)

    assert np.bincount(held_out.labels).tolist() == [12, 6, 2]
    parts = [*rest.images, *held_out.images]
    keys = sorted(image.tobytes() for image in parts)
    assert keys == sorted(image.tobytes() for image in whole.images)
    by_image = {
        image.tobytes(): label
        for image, label in zip(whole.images, whole.labels, strict=True)
    }
    for part in (rest, held_out):
        for image, label in zip(part.images, part.labels, strict=True):
            assert by_image[image.tobytes()] == label


def test_carve_depends_on_the_seed_alone_and_keeps_the_order():
    whole = numbered(100)
    rest, held_out = data.carve(whole, 30, seed=3)
    again, again_held_out = data.carve(whole, 30, seed=3)
    assert numbers(rest.images) == numbers(again.images) == sorted(numbers(rest.images))
    assert numbers(held_out.images) == numbers(again_held_out.images)
    assert numbers(held_out.images) == sorted(numbers(held_out.images))
    other = data.carve(whole, 30, seed=4)[1]
    assert numbers(held_out.images) != numbers(other.images)


def test_carve_nothing():
    rest, held_out = data.carve(numbered(4), 0, seed=0)
    assert numbers(rest.images) == [0, 1, 2, 3]
    assert held_out.images.shape == (0, 1, 1, 1)


@pytest.mark.parametrize(
    ("labels", "num", "message"),
    [
        ([0, 0, 1, 1], 4, r"cannot hold out 4 of 4 examples; choose 0\.\.3"),
        ([0, 0, 1, 1], -1, "cannot hold out -1 of 4"),
        ([0, 0, 0, 1], 2, "class 1 has a single example"),
        ([0, 0, 1, 1], 1, "hold out 1 of 4 .* each of the 2 classes"),
        ([0, 0, 1, 1], 3, "hold out 3 of 4 .* each of the 2 classes"),
    ],
)
def test_carve_refuses(labels, num, message):
    with pytest.raises(UserError, match=message):
        data.carve(image_set(labels), num, seed=0)


# Sizes.


@pytest.mark.parametrize("side", [3, 8, 20])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_resize(side, channels):
    whole = image_set([0, 1], (8, 6, channels))
    found = resize(whole, side)
    assert found.images.shape == (2, side, side, channels)
    assert found.labels.tolist() == [0, 1]
    # Pillow resizes the bands of an RGB image together.
    for image, resized in zip(whole.images, found.images, strict=True):
        rgb = np.zeros((8, 6, 3), np.uint8)
        rgb[..., :channels] = image
        wanted = Image.fromarray(rgb).resize((side, side), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(resized, np.asarray(wanted)[..., :channels])


def test_resize_is_antialiased():
    stripes = np.zeros((1, 8, 8, 1), np.uint8)
    stripes[:, ::2] = 200
    found = resize(data.ImageSet(stripes, np.zeros(1, np.int32)), 2).images
    assert np.all(abs(found.astype(int) - 100) < 30)  # without: 0 or 200.


def test_resize_to_the_same_size_copies_nothing():
    whole = image_set([0], (8, 8, 1))
    assert resize(whole, 8) is whole


# The door.


def test_unknown_names():
    with pytest.raises(UserError, match=r"'mnits'; did you mean mnist.*known: digits,"):
        data.load("mnits")
    with pytest.raises(UserError, match="unknown data set 'xyz'; known: digits, mnist"):
        data.load("xyz")


def test_arguments_out_of_range():
    with pytest.raises(UserError, match=r"validation_examples is -1; it must be"):
        data.load("digits", validation_examples=-1)
    with pytest.raises(UserError, match=r"image_size is -2; it must be at least 0"):
        data.load("digits", image_size=-2)
    with pytest.raises(
        UserError, match="=1437 of digits: cannot hold out 1437 of 1437"
    ):
        data.load("digits", validation_examples=1437)
    with pytest.raises(UserError, match=r"=5 of digits: .*each of the 10 classes"):
        data.load("digits", validation_examples=5)
    with pytest.raises(UserError, match=r"digits takes no path \(got x.npz\)"):
        data.load("digits", path="x.npz")
    for name in ("folder", "npz"):
        with pytest.raises(UserError, match="no path is given; set config"):
            data.load(name)


def test_digits():
    found = data.load("digits")
    assert (len(found.train), len(found.validation), len(found.test)) == (1437, 0, 360)
    assert found.image_shape == (8, 8, 1)
    assert found.class_names == tuple("0123456789")
    assert "1797" in found.provenance
    assert "scikit-learn" in found.provenance

    bunch = load_digits()
    table = [round(value * 255 / 16) for value in range(17)]
    wanted = sorted(
        (label, bytes(table[int(value)] for value in image.ravel()))
        for image, label in zip(bunch.images, bunch.target.tolist(), strict=True)
    )
    images = np.concatenate([found.train.images, found.test.images])
    labels = np.concatenate([found.train.labels, found.test.labels])
    pairs = zip(labels.tolist(), images, strict=True)
    assert sorted((label, image.tobytes()) for label, image in pairs) == wanted
    fraction = np.bincount(found.test.labels) / np.bincount(bunch.target)
    np.testing.assert_allclose(fraction, 360 / 1797, atol=0.005)


def test_validation_comes_from_the_training_images_alone():
    plain = data.load("digits")
    split = data.load("digits", validation_examples=200)
    again = data.load("digits", validation_examples=200)
    assert (len(split.train), len(split.validation)) == (1237, 200)
    np.testing.assert_array_equal(split.test.images, plain.test.images)
    np.testing.assert_array_equal(split.validation.images, again.validation.images)
    parts = np.concatenate([split.train.images, split.validation.images])
    assert sorted(image.tobytes() for image in parts) == sorted(
        image.tobytes() for image in plain.train.images
    )
    assert np.bincount(split.validation.labels).min() >= 19


def test_image_size_of_the_door():
    found = data.load("digits", validation_examples=100, image_size=12)
    for part in (found.train, found.validation, found.test):
        assert part.images.shape[1:] == (12, 12, 1)
    assert found.test.images.max() > 200


def test_loading_starts_no_framework():
    code = (
        "import sys, capsjax.data as d; d.load('digits');"
        "print([m for m in ('jax', 'flax', 'tensorflow') if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        check=True,
        capture_output=True,
        text=True,
    )
    assert found.stdout.strip() == "[]"


# Prepared data sets; tests/data/test_prepare.py has made ones.


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist", "cifar10"])
def test_not_prepared(name, tmp_path):
    command = (
        "python -m experiments.prepare_data "
        f"--dataset={name} --data_dir={tmp_path / 'none'}"
    )
    with pytest.raises(UserError, match=f"no {name} .*prepare it by: {command}"):
        data.load(name, data_dir=str(tmp_path / "none"))


def test_real_mnist(tfds_data_dir):
    found = data.load("mnist", data_dir=tfds_data_dir, validation_examples=5000)
    assert (len(found.train), len(found.validation)) == (55000, 5000)
    assert found.image_shape == (28, 28, 1)
    assert found.class_names == tuple("0123456789")
    # Class counts and the mean and deviation of the pixels as they are well known.
    labels = np.concatenate([found.train.labels, found.validation.labels])
    assert np.bincount(labels).tolist() == [
        *(5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
    ]
    assert np.bincount(found.test.labels).tolist() == [
        *(980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)
    ]
    images = np.concatenate([found.train.images, found.validation.images]) / 255
    assert images.mean() == pytest.approx(0.1307, abs=5e-5)
    assert images.std() == pytest.approx(0.3081, abs=5e-5)
    assert "mnist 3.0.1" in found.provenance
    assert "JPEG" not in found.provenance


def test_real_cifar10(tfds_data_dir):
    if not (Path(tfds_data_dir) / "cifar10").is_dir():
        pytest.skip("no CIFAR-10 there")
    found = data.load("cifar10", data_dir=tfds_data_dir)
    assert (len(found.train), len(found.test)) == (50000, 10000)
    assert np.bincount(found.train.labels).tolist() == [5000] * 10
    assert np.bincount(found.test.labels).tolist() == [1000] * 10
    assert found.class_names[:3] == ("airplane", "automobile", "bird")
    # The mean colour is well known; compression may shift it a little.
    mean = found.train.images.mean((0, 1, 2)) / 255
    np.testing.assert_allclose(mean, [0.4914, 0.4822, 0.4465], atol=5e-4)


# Folders.


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
    refused("a folder train of classes but not both train and test")
    save(root / "test/b/0.png", gray(0))
    refused("differ in the classes a, b")
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


# NPZ files.


def keras_arrays():
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (6, 5, 5, 3), np.uint8),
        "y_train": np.array([[0], [1], [2], [0], [1], [2]], np.uint8),
        "x_test": rng.integers(0, 256, (3, 5, 5, 3), np.uint8),
        "y_test": np.array([[2], [1], [0]], np.uint8),
    }


def load_npz(tmp_path, **arrays):
    np.savez(tmp_path / "set.npz", **arrays)
    return data.load("npz", path=str(tmp_path / "set.npz"))


def test_npz_with_keras_keys(tmp_path):
    arrays = keras_arrays()
    found = load_npz(tmp_path, **arrays, unused=np.zeros(3))
    np.testing.assert_array_equal(found.train.images, arrays["x_train"])
    np.testing.assert_array_equal(found.train.labels, [0, 1, 2, 0, 1, 2])
    np.testing.assert_array_equal(found.test.images, arrays["x_test"])
    np.testing.assert_array_equal(found.test.labels, [2, 1, 0])
    assert found.class_names == ("0", "1", "2")
    assert "set.npz, sha256 " in found.provenance


def test_npz_without_a_test_set(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (200, 4, 4), np.uint8)
    labels = np.arange(200) % 2
    found = load_npz(
        tmp_path, images=images, labels=labels, class_names=np.array(["no", "yes"])
    )
    assert found.image_shape == (4, 4, 1)
    assert len(found.train) + len(found.test) == 200
    assert 20 <= len(found.test) <= 60
    assert np.bincount(found.test.labels).min() >= 8
    assert found.class_names == ("no", "yes")
    where = {
        image.tobytes(): label for image, label in zip(images, labels, strict=True)
    }
    for image, label in zip(found.test.images, found.test.labels, strict=True):
        assert where[image.tobytes()] == label


def test_npz_class_names_allow_classes_without_examples(tmp_path):
    arrays = keras_arrays()
    arrays["y_train"] = arrays["y_train"] + 1
    names = np.array([b"a", b"b", b"c", b"d"])
    found = load_npz(tmp_path, **arrays, class_names=names)
    assert found.class_names == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"x_train": None},
            "has the arrays x_test, y_test, y_train; wanted x_train, y_t",
        ),
        (
            {"x_train": np.zeros((6, 5, 5, 3))},
            "train: images have dtype float64; .*255",
        ),
        ({"x_test": np.zeros((3, 3, 5, 5), np.uint8)}, "test: .*channels last"),
        (
            {"x_test": np.eye(15, dtype=np.uint8).reshape(9, 5, 5, 1)[:3] * 255},
            "npz: npz: train images have sha",
        ),
        ({"y_train": np.eye(6)}, "train: labels have dtype float64 .*one-hot"),
        ({"y_train": np.arange(5)}, "train: 6 images but 5 labels"),
        ({"y_train": np.arange(1, 7)}, "reach 6 but class 0 has no example"),
        ({"y_test": np.full(3, 3)}, r"test labels span 3\.\.3 but .* 3 classes"),
        ({"class_names": np.array(["a", "b"])}, r"labels span 0\.\.2 but .* 2 classes"),
        ({"class_names": np.arange(3)}, "class_names has dtype int64"),
        (
            {"y_train": np.array([None] * 6)},
            "cannot read .*none of them of dtype object",
        ),
        ({"x_test": np.zeros((0, 5, 5, 3), np.uint8), "y_test": np.arange(0)}, "empty"),
    ],
)
def test_bad_arrays_in_npz_files(change, message, tmp_path):
    arrays = {k: v for k, v in (keras_arrays() | change).items() if v is not None}
    with pytest.raises(UserError, match=message):
        load_npz(tmp_path, **arrays)


def test_bad_npz_files(tmp_path):
    path = tmp_path / "set.npz"
    with pytest.raises(UserError, match=f"no NPZ file {path}"):
        data.load("npz", path=str(path))
    np.savez(path, **keras_arrays())
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[400] ^= 1
    for content in (b"", b"text", whole[: len(whole) // 2], damaged):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"cannot read {path} as an NPZ file"):
            data.load("npz", path=str(path))
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(UserError, match=r"cannot read .*one.npy as an NPZ file"):
        data.load("npz", path=str(tmp_path / "one.npy"))


# Batches.


def test_an_epoch_uses_every_example_at_most_once():
    batches = data.TrainBatches(numbered(11), 4, seed=0)
    assert batches.steps_per_epoch == 2
    epochs = []
    for epoch in range(20):
        steps = range(2 * epoch, 2 * epoch + 2)
        seen = [x for s in steps for x in numbers(batches.batch(s)["image"])]
        assert len(set(seen)) == len(seen) == 8
        epochs.append(tuple(seen))
    assert len(set(epochs)) == 20
    # Every example is left out of some epochs, none of all.
    assert {x for epoch in epochs for x in epoch} == set(range(11))


def test_batches_are_a_function_of_seed_and_step():
    whole = numbered(11)
    forward = data.TrainBatches(whole, 4, seed=5)
    wanted = [forward.batch(step) for step in range(12)]
    resumed = data.TrainBatches(whole, 4, seed=5)
    for step in (7, 11, 0, 6, 1):
        found = resumed.batch(step)
        np.testing.assert_array_equal(found["image"], wanted[step]["image"])
        np.testing.assert_array_equal(found["label"], wanted[step]["label"])
    # Step 7 is the second of the fourth epoch.
    order = np.random.default_rng((5, 3)).permutation(11)
    assert numbers(wanted[7]["image"]) == order[4:8].tolist()
    other = data.TrainBatches(whole, 4, seed=6)
    assert numbers(other.batch(0)["image"]) != numbers(wanted[0]["image"])


def test_train_batches_have_the_stored_types():
    batch = data.TrainBatches(numbered(11), 4, seed=0).batch(0)
    assert batch["image"].shape == (4, 1, 1, 1)
    assert batch["image"].dtype == np.uint8
    assert batch["label"].dtype == np.int32
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0] % 2, batch["label"])
    batch["image"][:] = 0  # a copy: the data set stays as it is.
    again = data.TrainBatches(numbered(11), 4, seed=0).batch(0)
    assert again["image"].any()


@pytest.mark.parametrize("size", [0, 12, -1])
def test_train_batch_size_out_of_range(size):
    with pytest.raises(UserError, match=f"batch size {size} with 11 training examples"):
        data.TrainBatches(numbered(11), size, seed=0)


def test_train_batches_other_bad_input():
    with pytest.raises(UserError, match="seed -1 is negative"):
        data.TrainBatches(numbered(11), 4, seed=-1)
    with pytest.raises(ValueError, match="step -1 is negative"):
        data.TrainBatches(numbered(11), 4, seed=0).batch(-1)


@pytest.mark.parametrize(("n", "num_batches"), [(0, 0), (3, 1), (4, 1), (8, 2), (9, 3)])
def test_eval_batches_hold_every_example_once(n, num_batches):
    whole = numbered(n)
    batches = list(data.eval_batches(whole, 4))
    assert len(batches) == num_batches
    seen = []
    for batch in batches:
        assert batch["image"].shape == (4, 1, 1, 1)
        assert batch["image"].dtype == np.uint8
        assert batch["label"].dtype == np.int32
        assert batch["mask"].dtype == np.float32
        real = batch["mask"] == 1
        assert not batch["mask"][~real].any()
        assert not batch["image"][~real].any()
        assert not batch["label"][~real].any()
        np.testing.assert_array_equal(
            batch["label"][real], batch["image"][real][:, 0, 0, 0] % 2
        )
        seen += numbers(batch["image"][real])
    assert seen == list(range(n))


def test_eval_batch_size_out_of_range():
    with pytest.raises(UserError, match="evaluation batch size 0"):
        next(data.eval_batches(numbered(3), 0))
