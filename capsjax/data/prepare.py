"""Puts data sets on disk in TensorFlow Datasets form: those that `BUILDERS` names.

TFDS's own builders read the original files and encode the images with TensorFlow. The
builders here do that with `capsjax.data.originals` and Pillow; all else, from the
feature types to the record files, is TFDS's, so that the result is the ordinary
prepared data set. One is less than TFDS's: SVHN comes without its 1.3 GB of extra
training images, which the paper does not use.
"""

import hashlib
import http.client
import io
import os
import shutil
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.image_classification.cifar import Cifar10
from tensorflow_datasets.image_classification.mnist import KMNIST, MNIST, FashionMNIST
from tqdm import tqdm

from capsjax.data import originals
from capsjax.errors import UserError

STALE_SECONDS = 600
"""An incomplete directory untouched for so long was left by a run that was killed."""

_TIMEOUT_SECONDS = 60


def prepare(
    name: str, data_dir: str | None = None, source_dir: str | None = None
) -> str:
    """Prepares one data set; does nothing if it is prepared already.

    The original files are taken from `source_dir`, or else downloaded from where they
    are published to data_dir/downloads/NAME, where they stay; files that are there
    already are not downloaded again. Their sha256 is checked in either case. The data
    set appears under data_dir/NAME only when it is complete.

    Args:
        name: one of `BUILDERS`.
        data_dir: the TensorFlow Datasets directory; None is TFDS's own default, the
            environment variable TFDS_DATA_DIR or else ~/tensorflow_datasets.
        source_dir: a folder with the original files, or with a folder NAME of them.

    Returns:
        One line that says what has been done.

    Raises:
        UserError: an unknown name, a file that is missing, cannot be downloaded or is
            not the original, or a data directory that cannot be used.
    """
    if name not in BUILDERS:
        raise UserError(
            f"cannot prepare the data set {name!r}; choose from {', '.join(BUILDERS)}"
        )
    tfds.display_progress_bar(sys.stderr.isatty())
    try:
        builder = BUILDERS[name](data_dir=data_dir or None)
    # protobuf's and JSON's errors, for metadata that are cut off, and OSError.
    except Exception as error:
        raise UserError(
            f"cannot open {name} in {data_dir or 'the default data directory'} "
            f"({error}); delete its directory there or choose another data_dir"
        ) from error
    target = Path(builder.data_dir)
    if builder.info.initialized:
        stored = builder.info.file_format.value
        if stored != "array_record":
            raise UserError(
                f"{target} holds {name} in the format {stored}, which cannot be read "
                "without TensorFlow; choose another data_dir"
            )
        return f"{name} {builder.version} is prepared already in {target}"
    if target.exists():
        raise UserError(f"{target} exists but is no complete data set; delete it")

    try:
        _remove_stale(target.parent)
        if source_dir:
            folder = _given(builder.url_infos, Path(source_dir).expanduser(), name)
        else:
            folder = Path(builder.data_dir_root) / "downloads" / name
            _remove_stale(folder)
            for url, info in builder.url_infos.items():
                _download(url, info, folder)
        # manual_dir: the download manager takes the files from there.
        config = tfds.download.DownloadConfig(manual_dir=folder)
        # Writes to a directory beside `target` and renames it at the very end; removes
        # it if anything is raised.
        builder.download_and_prepare(download_config=config, file_format="array_record")
    except OSError as error:
        raise UserError(
            f"cannot prepare {name} in {builder.data_dir_root} ({error}); see to the "
            "permissions and the free space there, or choose another data_dir"
        ) from error
    counts = ", ".join(
        f"{info.num_examples} {split}" for split, info in builder.info.splits.items()
    )
    return f"prepared {name} {builder.version} in {target}: {counts} examples"


class _Idx:
    """Reads an MNIST-like data set: four gzipped idx files."""

    url_infos: dict[str, Any]

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        paths = dl_manager.download(
            {info.filename: url for url, info in self.url_infos.items()}
        )
        return {
            split: self._generate_examples(
                *originals.read_idx_pair(
                    paths[f"{prefix}-images-idx3-ubyte.gz"],
                    paths[f"{prefix}-labels-idx1-ubyte.gz"],
                )
            )
            for split, prefix in (("train", "train"), ("test", "t10k"))
        }

    def _generate_examples(
        self, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield index, {"image": _png(image), "label": int(label)}


class _CifarBinary:
    """Reads the binary version of CIFAR-10: one tar archive of record files."""

    info: Any
    url_infos: dict[str, Any]
    _cifar_info: Any

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        layout = self._cifar_info
        (url,) = self.url_infos
        path = dl_manager.download(url)
        contents = originals.read_tar(
            path, {*layout.label_files, *layout.train_files, *layout.test_files}
        )
        class_names = contents[layout.label_files[0]].decode().split()
        num_classes = self.info.features["label"].num_classes
        if len(class_names) != num_classes:
            raise UserError(
                f"{path}: {layout.label_files[0]} has {len(class_names)} class names "
                f"instead of {num_classes}"
            )
        self.info.features["label"].names = class_names
        return {
            split: self._generate_examples(
                f"{split}_",
                *originals.parse_cifar(
                    b"".join(contents[file] for file in files), path
                ),
            )
            for split, files in (
                ("train", layout.train_files),
                ("test", layout.test_files),
            )
        }

    def _generate_examples(
        self,
        prefix: str,
        images: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.uint8],
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield (
                index,
                {
                    "id": f"{prefix}{index:05d}",
                    "image": _png(image),
                    "label": int(label),
                },
            )


class _NorbMatrices:
    """Reads smallNORB: three gzipped matrices for each split."""

    url_infos: dict[str, Any]

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        paths = dl_manager.download(
            {info.filename: url for url, info in self.url_infos.items()}
        )
        return {
            split: self._generate_examples(
                *(paths[f"{prefix}-{kind}.mat.gz"] for kind in ("dat", "cat", "info"))
            )
            for split, prefix in (
                ("train", "smallnorb-5x46789x9x18x6x2x96x96-training"),
                ("test", "smallnorb-5x01235x9x18x6x2x96x96-testing"),
            )
        }

    def _generate_examples(
        self, *paths: os.PathLike[str]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        # Here, not above, so that only one split's 450 MB are in memory.
        norb = originals.read_norb(*paths)
        for index, cameras in enumerate(norb.images):
            yield (
                index,
                {
                    "image": _png(cameras[0, ..., None]),
                    "image2": _png(cameras[1, ..., None]),
                    "label_category": int(norb.category[index]),
                    "instance": int(norb.instance[index]),
                    "label_elevation": int(norb.elevation[index]),
                    # TFDS counts the 18 azimuths; the original counts 10 degrees.
                    "label_azimuth": int(norb.azimuth[index]) // 2,
                    "label_lighting": int(norb.lighting[index]),
                },
            )


class _SvhnMatlab:
    """Reads SVHN's cropped digits: one MATLAB file for each split."""

    url_infos: dict[str, Any]

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        paths = dl_manager.download(
            {info.filename: url for url, info in self.url_infos.items()}
        )
        return {
            split: self._generate_examples(f"{split}_", paths[f"{split}_32x32.mat"])
            for split in ("train", "test")
        }

    def _generate_examples(
        self, prefix: str, path: os.PathLike[str]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        # Here, not above, so that only one split is in memory.
        images, labels = originals.read_svhn(path)
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield (
                index,
                {
                    "id": f"{prefix}{index:06d}",
                    "image": _png(image),
                    "label": int(label),
                },
            )


# By name, since TFDS deprecates the modules to import them from.
_TfdsSmallnorb: Any = tfds.builder_cls("smallnorb")
_TfdsSvhnCropped: Any = tfds.builder_cls("svhn_cropped")

_SVHN_URL_INFOS = {
    url: info
    for url, info in _TfdsSvhnCropped.url_infos.items()
    if info.filename != "extra_32x32.mat"
}

# TFDS's own builders, taken from it above, keep these names in its registry.
with tfds.core.registered.skip_registration():

    class _Mnist(_Idx, MNIST):
        name = "mnist"
        url_infos = MNIST.url_infos

    class _FashionMnist(_Idx, FashionMNIST):
        name = "fashion_mnist"
        url_infos = FashionMNIST.url_infos

    class _Kmnist(_Idx, KMNIST):
        name = "kmnist"
        url_infos = KMNIST.url_infos

    class _Cifar10(_CifarBinary, Cifar10):
        name = "cifar10"
        url_infos = Cifar10.url_infos

    class _Smallnorb(_NorbMatrices, _TfdsSmallnorb):
        name = "smallnorb"
        url_infos = _TfdsSmallnorb.url_infos

    class _SvhnCropped(_SvhnMatlab, _TfdsSvhnCropped):
        name = "svhn_cropped"
        url_infos = _SVHN_URL_INFOS


BUILDERS: dict[str, type[tfds.core.GeneratorBasedBuilder]] = {
    builder.name: builder
    for builder in (
        _Mnist,
        _FashionMnist,
        _Kmnist,
        _Cifar10,
        _Smallnorb,
        _SvhnCropped,
    )
}
"""The data sets that can be prepared; `url_infos` holds their URLs and checksums."""


def _given(url_infos: dict[str, Any], source_dir: Path, name: str) -> Path:
    """Finds the folder of given original files and checks them."""
    # A folder of its own, since the files of the MNIST family have the same names.
    own = source_dir / name
    folder = own if own.is_dir() else source_dir
    for url, info in url_infos.items():
        path = folder / info.filename
        if not path.is_file():
            raise UserError(
                f"no {info.filename} in {folder}; put there the original file, {url}, "
                "or leave source_dir out to download it"
            )
        _check(path, str(path), info)
    return folder


def _download(url: str, info: Any, folder: Path) -> None:
    """Downloads one file, unless it is there; it appears only when complete."""
    path = folder / info.filename
    if path.exists():
        _check(path, str(path), info)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="incomplete.") as scratch:
        part = Path(scratch) / info.filename
        try:
            with (
                urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response,
                tqdm.wrapattr(
                    response,
                    "read",
                    total=int(info.size),
                    desc=f"downloading {info.filename}",
                    disable=None,
                ) as stream,
                part.open("wb") as file,
            ):
                shutil.copyfileobj(stream, file)
        except (OSError, http.client.HTTPException) as error:
            raise UserError(
                f"cannot download {url} ({error}); try again later, or fetch it in "
                f"another way, put it as {info.filename} into {folder} or into a "
                "folder of yours, and name that with --source_dir"
            ) from error
        _check(part, f"what came from {url}", info)
        part.replace(path)


def _check(path: Path, what: str, info: Any) -> None:
    """Raises UserError, on `what`, unless a file has the published one's checksum."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != info.checksum:
        raise UserError(
            f"{what} is not the original {info.filename}: its sha256 is {digest} "
            f"instead of {info.checksum} ({path.stat().st_size} bytes instead of "
            f"{int(info.size)}); fetch it again"
        )


def _remove_stale(parent: Path) -> None:
    """Removes what killed runs left half-written in `parent`."""
    for leftover in parent.glob("incomplete.*"):
        # Another process may be writing there, or removing it, at this moment.
        try:
            entries = [leftover, *leftover.rglob("*")]
            newest = max(entry.stat().st_mtime for entry in entries)
        except FileNotFoundError:
            continue
        if time.time() - newest > STALE_SECONDS:
            shutil.rmtree(leftover, ignore_errors=True)


def _png(image: npt.NDArray[np.uint8]) -> io.BytesIO:
    """Encodes uint8 [H, W, 1 or 3], without loss."""
    buffer = io.BytesIO()
    squeezed = image[..., 0] if image.shape[-1] == 1 else image
    Image.fromarray(np.ascontiguousarray(squeezed)).save(buffer, "PNG")
    buffer.seek(0)
    return buffer
