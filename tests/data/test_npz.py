"""NPZ files."""

import numpy as np
import pytest

from capsjax import data
from capsjax.errors import UserError


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


def medmnist_arrays():
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 12), ("val", 4), ("test", 6)):
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, 5, 5), np.uint8)
        arrays[f"{part}_labels"] = (np.arange(count) % 2)[:, None].astype(np.uint8)
    return arrays


def test_npz_with_medmnist_keys(tmp_path):
    arrays = medmnist_arrays()
    found = load_npz(tmp_path, **arrays)
    for ours, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        part = found.parts()[ours]
        np.testing.assert_array_equal(part.images[..., 0], arrays[f"{name}_images"])
        np.testing.assert_array_equal(part.labels, arrays[f"{name}_labels"][:, 0])
    assert "its own 4 validation images" in found.provenance


def test_npz_with_a_validation_part_of_keras_form(tmp_path):
    arrays = keras_arrays()
    arrays |= {"x_val": arrays["x_test"][:2], "y_val": arrays["y_test"][:2]}
    path = tmp_path / "set.npz"
    np.savez(path, **arrays)
    found = data.load("npz", path=str(path), validation_examples=3)
    assert (len(found.train), len(found.validation)) == (6, 2)
    # Runs of earlier versions held out validation images, and did not use these.
    before = data.load(
        "npz", path=str(path), validation_examples=3, parts="train_and_test"
    )
    assert (len(before.train), len(before.validation)) == (3, 3)
    assert before.content == found.content


def test_npz_classes_without_test_images_are_a_warning(tmp_path):
    arrays = keras_arrays()
    arrays["y_test"] = np.zeros(3, np.uint8)
    found = load_npz(tmp_path, **arrays)
    assert "no test image of 1, 2" in found.warnings[0]


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
