"""Readers of data sets' original files, in the formats in which they are published.

Each reader yields the examples of one split, in the order of the files, as TFDS's
features: images are uint8 [H, W, C], labels integers. The files are not checked here,
because `capsjax.data.prepare` has compared their sha256 with the published one.
"""

import fnmatch
import gzip
import os
import tarfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.io

Files = Mapping[str, str | os.PathLike[str]]
"""The original files' paths, by the names under which they are published."""

Features = dict[str, Any]


def mnist(files: Files, split: str) -> Iterator[Features]:
    """Reads MNIST, Fashion-MNIST or KMNIST: gzipped idx files of 28x28 images."""
    prefix = {"train": "train", "test": "t10k"}[split]
    images = _unzip(files[f"{prefix}-images-idx3-ubyte.gz"], np.uint8, header=16)
    labels = _unzip(files[f"{prefix}-labels-idx1-ubyte.gz"], np.uint8, header=8)
    for image, label in zip(images.reshape(-1, 28, 28, 1), labels, strict=True):
        yield {"image": image, "label": int(label)}


def cifar10(files: Files, split: str) -> Iterator[Features]:
    """Reads CIFAR-10's binary version: a label, then red, green and blue planes."""
    pattern = {"train": "data_batch_*.bin", "test": "test_batch.bin"}[split]
    records = np.frombuffer(_untar(files, pattern), np.uint8).reshape(-1, 1 + 3 * 32**2)
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    for index, (label, image) in enumerate(zip(records[:, 0], images, strict=True)):
        yield {"id": f"{split}_{index:05d}", "image": image, "label": int(label)}


def cifar10_class_names(files: Files) -> list[str]:
    """Reads the class names out of CIFAR-10's binary version."""
    return _untar(files, "batches.meta.txt").decode().split()


def smallnorb(files: Files, split: str) -> Iterator[Features]:
    """Reads smallNORB: three gzipped matrices, of photographs by two cameras."""
    prefix = {
        "train": "smallnorb-5x46789x9x18x6x2x96x96-training",
        "test": "smallnorb-5x01235x9x18x6x2x96x96-testing",
    }[split]
    # The header: a magic number, the number of dimensions, and at least three sizes.
    cameras = _unzip(files[f"{prefix}-dat.mat.gz"], np.uint8, header=8 + 4 * 4)
    category = _unzip(files[f"{prefix}-cat.mat.gz"], "<i4", header=8 + 4 * 3)
    info = _unzip(files[f"{prefix}-info.mat.gz"], "<i4", header=8 + 4 * 3)
    for (first, second), label, (instance, elevation, azimuth, lighting) in zip(
        cameras.reshape(-1, 2, 96, 96, 1), category, info.reshape(-1, 4), strict=True
    ):
        yield {
            "image": first,
            "image2": second,
            "label_category": int(label),
            "instance": int(instance),
            "label_elevation": int(elevation),
            # TFDS counts the 18 azimuths; the original counts tens of degrees.
            "label_azimuth": int(azimuth) // 2,
            "label_lighting": int(lighting),
        }


def svhn(files: Files, split: str) -> Iterator[Features]:
    """Reads SVHN's cropped digits: a MATLAB file, whose label 10 is the digit 0."""
    arrays = scipy.io.loadmat(files[f"{split}_32x32.mat"], variable_names=["X", "y"])
    images = arrays["X"].transpose(3, 0, 1, 2)
    for index, (image, (label,)) in enumerate(zip(images, arrays["y"], strict=True)):
        yield {"id": f"{split}_{index:06d}", "image": image, "label": int(label) % 10}


def _unzip(
    path: str | os.PathLike[str], dtype: npt.DTypeLike, header: int
) -> np.ndarray:
    """Reads the values that follow the header bytes of a gzipped file."""
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), dtype, offset=header)


def _untar(files: Files, pattern: str) -> bytes:
    """Joins the files of CIFAR-10's archive that match `pattern`, by their names."""
    with tarfile.open(files["cifar-10-binary.tar.gz"]) as archive:
        # In the archive's order, since going back means unpacking it anew.
        contents = {
            member.name: archive.extractfile(member).read()  # type: ignore[union-attr]
            for member in archive
            if fnmatch.fnmatch(member.name, f"*/{pattern}")
        }
    return b"".join(contents[name] for name in sorted(contents))
