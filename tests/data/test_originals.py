"""Original files of smallNORB and SVHN; those of others: tests/data/test_prepare.py."""

import gzip
import io
import struct

import numpy as np
import pytest
import scipy.io

from capsjax.data import originals
from capsjax.errors import UserError

INFO = ["instance", "elevation", "azimuth", "lighting"]
N = 3


def norb_matrix(array):
    """NORB's format as its authors describe it, gzipped."""
    magic = {"uint8": 0x1E3D4C55, "int32": 0x1E3D4C54}[array.dtype.name]
    sizes = [*array.shape, 1, 1, 1][: max(3, array.ndim)]
    header = struct.pack(f"<{2 + len(sizes)}i", magic, array.ndim, *sizes)
    return zipped(header + array.astype(array.dtype.newbyteorder("<")).tobytes())


def zipped(content):
    """Without the time, which would tell the tests' names of two processes apart."""
    return gzip.compress(content, mtime=0)


def made_norb(n=N):
    """Random photographs, and rows of category and info."""
    rng = np.random.default_rng(0)
    info = [rng.integers(0, most, n) for most in (10, 9, 18, 6)]
    info[2] *= 2  # azimuths are 0, 2, ... 34.
    return {
        "dat": rng.integers(0, 256, (n, 2, 96, 96), np.uint8),
        "cat": rng.permutation(n).astype(np.int32) % 5,
        "info": np.stack(info, axis=1).astype(np.int32),
    }


def read_norb(folder, files):
    paths = {kind: folder / f"made-{kind}.mat.gz" for kind in ("dat", "cat", "info")}
    for kind, content in files.items():
        paths[kind].write_bytes(content)
    return originals.read_norb(*paths.values())


def norb_files():
    return {kind: norb_matrix(array) for kind, array in made_norb().items()}


def test_norb(tmp_path):
    made = made_norb()
    found = read_norb(tmp_path, norb_files())
    np.testing.assert_array_equal(found.images, made["dat"])
    np.testing.assert_array_equal(found.category, made["cat"])
    for column, name in enumerate(INFO):
        np.testing.assert_array_equal(getattr(found, name), made["info"][:, column])


def info_with(column, value):
    info = made_norb()["info"]
    info[1, INFO.index(column)] = value
    return norb_matrix(info)


def unzipped(kind):
    return gzip.decompress(norb_files()[kind])


@pytest.mark.parametrize(
    ("kind", "make", "message"),
    [
        ("dat", lambda: b"not gzip", "cannot unpack .*dat.mat.gz"),
        ("dat", lambda: norb_files()["dat"][:-9], "cannot unpack .*dat.mat.gz"),
        ("cat", lambda: zipped(b""), "no NORB matrix of int32: .*with nothing"),
        (
            "dat",
            lambda: norb_files()["cat"],
            "matrix of uint8: it begins with 544c3d1e instead of 554c3d1e",
        ),
        (
            "cat",
            lambda: norb_matrix(np.zeros((N, 4), np.int32)),
            "says that it has 2 dimensions, not 1",
        ),
        ("cat", lambda: zipped(unzipped("cat")[:19]), "ends early"),
        (
            "dat",
            lambda: zipped(unzipped("dat")[:-1]),
            r"holds \(3, 2, 96, 96\) values of uint8, and has 55295 bytes",
        ),
        (
            "info",
            lambda: zipped(unzipped("info") + bytes(4)),
            r"holds \(3, 4\) values of int32, and has 52 bytes",
        ),
        (
            "dat",
            lambda: norb_matrix(np.zeros((N, 2, 96, 95), np.uint8)),
            r"wanted N rows of \(2, 96, 96\) values",
        ),
        (
            "cat",
            lambda: norb_matrix(np.zeros(N - 1, np.int32)),
            "has 3 pairs of images but .*cat.mat.gz has 2 rows",
        ),
        (
            "info",
            lambda: norb_matrix(np.zeros((N + 1, 4), np.int32)),
            "has 3 pairs of images but .*info.mat.gz has 4 rows",
        ),
        (
            "cat",
            lambda: norb_matrix(np.array([0, 5, 1], np.int32)),
            r"cat.mat.gz has the category 5, outside 0\.\.4",
        ),
        ("info", lambda: info_with("instance", -1), r"instance -1, outside 0\.\.9"),
        ("info", lambda: info_with("elevation", 9), r"elevation 9, outside 0\.\.8"),
        ("info", lambda: info_with("azimuth", 36), r"azimuth 36, outside 0\.\.34"),
        ("info", lambda: info_with("azimuth", 17), "odd azimuths"),
        ("info", lambda: info_with("lighting", 6), r"lighting 6, outside 0\.\.5"),
    ],
)
def test_damaged_norb(kind, make, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read_norb(tmp_path, norb_files() | {kind: make()})


def matlab(arrays, **options):
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, arrays, **options)
    return buffer.getvalue()


def made_svhn():
    """X and y as in the published files; y has the labels 10, 1 and 9."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (N, 32, 32, 3), np.uint8)
    X = np.empty((32, 32, 3, N), np.uint8)
    for i, image in enumerate(images):
        X[:, :, :, i] = image
    return images, {"X": X, "y": np.array([[10], [1], [9]], np.uint8)}


def read_svhn(folder, content):
    (folder / "train_32x32.mat").write_bytes(content)
    return originals.read_svhn(folder / "train_32x32.mat")


@pytest.mark.parametrize("compressed", [True, False])
def test_svhn(compressed, tmp_path):
    images, arrays = made_svhn()
    content = matlab(arrays, do_compression=compressed)
    found, labels = read_svhn(tmp_path, content)
    np.testing.assert_array_equal(found, images)
    assert labels.tolist() == [0, 1, 9]
    assert (found.dtype, labels.dtype) == (np.uint8, np.uint8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": None}, "train_32x32.mat lacks the array X; fetch"),
        ({"X": None, "y": None}, "lacks the array X and y"),
        (
            {"X": np.zeros((N, 32, 32, 3), np.uint8)},
            r"X is uint8 \(3, 32, 32, 3\); wanted uint8 \(32, 32, 3, N\)",
        ),
        ({"X": np.zeros((32, 32, 3, N))}, "X is float64"),
        (
            {"y": np.ones((N - 1, 1), np.uint8)},
            r"y is uint8 \(2, 1\); wanted integers \(3, 1\)",
        ),
        ({"y": np.ones((N, 1))}, "y is float64"),
        ({"y": np.array([[0], [1], [2]])}, r"label 0, outside 1\.\.10"),
        ({"y": np.array([[1], [11], [2]])}, r"label 11, outside 1\.\.10"),
    ],
)
def test_other_arrays_than_svhns(change, message, tmp_path):
    arrays = {k: v for k, v in (made_svhn()[1] | change).items() if v is not None}
    with pytest.raises(UserError, match=message):
        read_svhn(tmp_path, matlab(arrays))


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "flipped"])
def test_damaged_svhn(damage, compressed, tmp_path):
    whole = matlab(made_svhn()[1], do_compression=compressed)
    flipped = bytearray(whole)
    flipped[130] ^= 0x55  # within the tag of the first array.
    content = {
        "empty": b"",
        "text": b"not found\n" * 30,
        "truncated": whole[: len(whole) // 2],
        "flipped": bytes(flipped),
    }[damage]
    with pytest.raises(UserError, match=r"cannot read .*train_32x32.mat as a MATLAB"):
        read_svhn(tmp_path, content)
