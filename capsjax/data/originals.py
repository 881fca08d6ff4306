"""Reads data sets' original files, in the formats in which they are published."""

import dataclasses
import gzip
import math
import os
import tarfile
import zlib
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt
import scipy.io

from capsjax.errors import UserError


def read_idx_pair(
    images_path: os.PathLike[str], labels_path: os.PathLike[str]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Reads the images and labels of one MNIST-like split.

    Args:
        images_path: a gzipped idx3 file.
        labels_path: a gzipped idx1 file.

    Returns:
        Images uint8 [N, 28, 28, 1] and labels uint8 [N] in 0..9.

    Raises:
        UserError: a file is damaged, or they are not 28x28 images in 10 classes with
            one label per image.
    """
    images, labels = _read_idx(images_path, 3), _read_idx(labels_path, 1)
    if images.shape[1:] != (28, 28):
        raise UserError(
            f"{images_path} has images of {images.shape[1:]} pixels, not 28x28"
        )
    if len(images) != len(labels):
        raise UserError(
            f"{images_path} has {len(images)} images but {labels_path} has "
            f"{len(labels)} labels"
        )
    _check_labels(labels, "label", 0, 9, labels_path)
    return images[..., None], labels


def _read_idx(path: os.PathLike[str], ndim: int) -> npt.NDArray[np.uint8]:
    """Reads a gzipped idx file of bytes with `ndim` dimensions."""
    data = _unzip(path)
    header = 4 + 4 * ndim
    # Two zero bytes, 8 for the type byte, the number of dimensions, then the sizes.
    magic = bytes([0, 0, 8, ndim])
    if len(data) < header or data[:4] != magic:
        raise UserError(
            f"{path} is no idx{ndim} file: it begins with {data[:4].hex() or 'nothing'}"
            f" instead of {magic.hex()}; fetch it again"
        )
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", ndim, 4))
    if math.prod(shape) != len(data) - header:
        raise UserError(
            f"{path} says that it holds {shape} bytes but has {len(data) - header}; "
            "fetch it again"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def read_tar(path: os.PathLike[str], names: set[str]) -> dict[str, bytes]:
    """Reads the files called `names`, in whatever folder, out of a tar archive.

    Raises:
        UserError: the archive is damaged, or lacks one of them.
    """
    contents = {}
    try:
        with tarfile.open(path) as archive:
            # In the archive's order, since going back means unpacking it anew.
            for member in archive:
                name = PurePosixPath(member.name).name
                file = archive.extractfile(member) if name in names else None
                if file is not None:
                    contents[name] = file.read()
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise UserError(f"cannot unpack {path} ({error}); fetch it again") from error
    if missing := names - set(contents):
        raise UserError(
            f"{path} lacks {', '.join(sorted(missing))}; fetch the binary version again"
        )
    return contents


def parse_cifar(
    data: bytes, origin: os.PathLike[str]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Parses records of CIFAR-10's binary version.

    Args:
        data: records of 3073 bytes: the label, then 32x32 red, green and blue values.
        origin: the file they come from, for the error texts.

    Returns:
        Images uint8 [N, 32, 32, 3] and labels uint8 [N] in 0..9.

    Raises:
        UserError: `data` is not a whole number of records, or a label is not in 0..9.
    """
    size = 1 + 3 * 32 * 32
    if len(data) % size:
        raise UserError(
            f"{origin}: {len(data)} bytes are not a whole number of records of {size} "
            "bytes; fetch it again"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, size)
    labels = records[:, 0]
    _check_labels(labels, "label", 0, 9, origin)
    planes = records[:, 1:].reshape(-1, 3, 32, 32)
    return planes.transpose(0, 2, 3, 1), labels


@dataclasses.dataclass(frozen=True, eq=False)
class Norb:
    """One split of smallNORB: N photographs of toys, each by two cameras.

    Attributes:
        images: uint8 [N, 2, 96, 96]; the second axis is the camera.
        category: int32 [N], the kind of toy, 0..4.
        instance: int32 [N], which toy of that kind, 0..9.
        elevation: int32 [N], 0..8 for 30, 35, ... 70 degrees above the horizontal.
        azimuth: int32 [N], 0, 2, ... 34: tens of degrees.
        lighting: int32 [N], 0..5.
    """

    images: npt.NDArray[np.uint8]
    category: npt.NDArray[np.int32]
    instance: npt.NDArray[np.int32]
    elevation: npt.NDArray[np.int32]
    azimuth: npt.NDArray[np.int32]
    lighting: npt.NDArray[np.int32]


def read_norb(
    images_path: os.PathLike[str],
    category_path: os.PathLike[str],
    info_path: os.PathLike[str],
) -> Norb:
    """Reads one split of smallNORB.

    Args:
        images_path: the gzipped "dat" file.
        category_path: the gzipped "cat" file.
        info_path: the gzipped "info" file.

    Returns:
        The photographs and what is known about each.

    Raises:
        UserError: a file is damaged, or the three are not of the shapes and values of
            smallNORB.

    References:
        LeCun, Huang and Bottou 2004, "Learning Methods for Generic Object Recognition
        with Invariance to Pose and Lighting"; the format is described on the data set's
        page.
    """
    images = _read_norb_matrix(images_path, _BYTE, (2, 96, 96))
    category = _read_norb_matrix(category_path, _INT32, ())
    info = _read_norb_matrix(info_path, _INT32, (4,))
    for path, array in ((category_path, category), (info_path, info)):
        if len(array) != len(images):
            raise UserError(
                f"{images_path} has {len(images)} pairs of images but {path} has "
                f"{len(array)} rows"
            )
    _check_labels(category, "category", 0, 4, category_path)
    for column, (what, highest) in enumerate(
        {"instance": 9, "elevation": 8, "azimuth": 34, "lighting": 5}.items()
    ):
        _check_labels(info[:, column], what, 0, highest, info_path)
    instance, elevation, azimuth, lighting = info.T
    if np.any(azimuth % 2):
        raise UserError(f"{info_path} has odd azimuths; fetch it again")
    return Norb(images, category, instance, elevation, azimuth, lighting)


_BYTE, _INT32 = np.dtype("u1"), np.dtype("<i4")
_NORB_MAGIC = {_BYTE: 0x1E3D4C55, _INT32: 0x1E3D4C54}


def _read_norb_matrix(
    path: os.PathLike[str], dtype: np.dtype, row: tuple[int, ...]
) -> np.ndarray:
    """Reads a gzipped NORB matrix of `dtype` whose rows have the shape `row`."""
    data = _unzip(path)
    magic = _NORB_MAGIC[dtype].to_bytes(4, "little")
    if len(data) < 8 or data[:4] != magic:
        raise UserError(
            f"{path} is no NORB matrix of {dtype.name}: it begins with "
            f"{data[:4].hex() or 'nothing'} instead of {magic.hex()}; fetch it again"
        )
    ndim = int(np.frombuffer(data, "<i4", 1, 4)[0])
    # Three sizes are stored even of a matrix with fewer dimensions.
    header = 8 + 4 * max(3, ndim)
    if ndim != 1 + len(row) or len(data) < header:
        raise UserError(
            f"{path} says that it has {ndim} dimensions, not {1 + len(row)}, or ends "
            "early; fetch it again"
        )
    shape = tuple(int(size) for size in np.frombuffer(data, "<i4", ndim, 8))
    if shape[1:] != row or shape[0] * math.prod(row) * dtype.itemsize != (
        len(data) - header
    ):
        raise UserError(
            f"{path} says that it holds {shape} values of {dtype.name}, and has "
            f"{len(data) - header} bytes; wanted N rows of {row} values; fetch it again"
        )
    return np.frombuffer(data, dtype, offset=header).reshape(shape)


def read_svhn(
    path: os.PathLike[str],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Reads one split of SVHN's cropped digits.

    Args:
        path: a MATLAB file with the images X, [32, 32, 3, N], and the labels y, [N, 1],
            in which 10 stands for the digit 0.

    Returns:
        Images uint8 [N, 32, 32, 3] and labels uint8 [N] in 0..9.

    Raises:
        UserError: the file is damaged, or has other arrays.

    References:
        Netzer, Wang, Coates, Bissacco, Wu and Ng 2011, "Reading Digits in Natural
        Images with Unsupervised Feature Learning".
    """
    try:
        with open(path, "rb") as file:
            arrays = scipy.io.loadmat(file, variable_names=["X", "y"])
    # Damage surfaces as many an exception, of the parser and of its decompressor.
    except Exception as error:
        raise UserError(
            f"cannot read {path} as a MATLAB file ({error}); fetch it again"
        ) from error
    if missing := {"X", "y"} - set(arrays):
        raise UserError(
            f"{path} lacks the array {' and '.join(sorted(missing))}; fetch it again"
        )
    images, labels = arrays["X"], arrays["y"]
    n = images.shape[-1] if images.ndim else 0
    if (images.dtype, images.shape) != (np.uint8, (32, 32, 3, n)):
        raise UserError(
            f"{path}: X is {images.dtype} {images.shape}; wanted uint8 (32, 32, 3, N)"
        )
    if labels.dtype.kind not in "iu" or labels.shape != (n, 1):
        raise UserError(
            f"{path}: y is {labels.dtype} {labels.shape}; wanted integers ({n}, 1)"
        )
    _check_labels(labels, "label", 1, 10, path)
    return images.transpose(3, 0, 1, 2), (labels[:, 0] % 10).astype(np.uint8)


def _unzip(path: os.PathLike[str]) -> bytes:
    """Reads a gzipped file whole."""
    try:
        with gzip.open(path) as file:
            return file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot unpack {path} ({error}); fetch it again") from error


def _check_labels(
    labels: np.ndarray, what: str, lowest: int, highest: int, path: os.PathLike[str]
) -> None:
    """Raises UserError for a label outside lowest..highest."""
    outside = labels[(labels < lowest) | (labels > highest)]
    if outside.size:
        raise UserError(
            f"{path} has the {what} {outside.flat[0]}, outside {lowest}..{highest}"
        )
