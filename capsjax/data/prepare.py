"""Preparation of data sets on disk in TensorFlow Datasets form, without TensorFlow.

TFDS's own builders read the original files and encode the images with TensorFlow. The
builders here do that with `capsjax.data.originals` and Pillow; everything else, from
the feature types to the record files, is TFDS's, so that the result is the ordinary
prepared data set. The one difference: SVHN comes without its 1.3 GB of extra training
images, which the paper does not use.
"""

import hashlib
import http.client
import io
import shutil
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow_datasets as tfds
from PIL import Image
from tqdm import tqdm

from capsjax.data import originals
from capsjax.errors import UserError

STALE_SECONDS = 600
"""An incomplete directory unchanged for this long was left by a killed run."""

_TIMEOUT_SECONDS = 60

_SVHN_EXTRA = "extra_32x32.mat"


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
        A one-line report.

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
        raise UserError(f"{target} exists but is not a complete data set; delete it")

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
            f"cannot prepare {name} in {builder.data_dir_root} ({error}); check the "
            "permissions and the free space there, or choose another data_dir"
        ) from error
    counts = ", ".join(
        f"{info.num_examples} {split}" for split, info in builder.info.splits.items()
    )
    return f"prepared {name} {builder.version} in {target}: {counts} examples"


def _builder(
    dataset: str,
    read: Callable[[originals.Files, str], Iterator[originals.Features]],
    read_class_names: Callable[[originals.Files], list[str]] | None = None,
) -> type[tfds.core.GeneratorBasedBuilder]:
    """Makes TFDS's builder of a data set read the original files with `read`."""
    # By name, since TFDS deprecates the modules to import some of them from.
    theirs: Any = tfds.builder_cls(dataset)
    urls = {
        url: info
        for url, info in theirs.url_infos.items()
        if info.filename != _SVHN_EXTRA
    }

    # TFDS's own builders keep their names in its registry.
    with tfds.core.registered.skip_registration():

        class Builder(theirs):
            name = dataset
            url_infos = urls

            def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
                files = dl_manager.download(
                    {info.filename: url for url, info in self.url_infos.items()}
                )
                if read_class_names:
                    self.info.features["label"].names = read_class_names(files)
                return {
                    split: self._generate_examples(files, split)
                    for split in ("train", "test")
                }

            # A generator, so that only one split's images are in memory.
            def _generate_examples(
                self, files: originals.Files, split: str
            ) -> Iterator[tuple[int, originals.Features]]:
                for index, features in enumerate(read(files, split)):
                    yield (
                        index,
                        {
                            name: _png(value)
                            if isinstance(value, np.ndarray)
                            else value
                            for name, value in features.items()
                        },
                    )

    return Builder


BUILDERS = {
    "mnist": _builder("mnist", originals.mnist),
    "fashion_mnist": _builder("fashion_mnist", originals.mnist),
    "kmnist": _builder("kmnist", originals.mnist),
    "cifar10": _builder("cifar10", originals.cifar10, originals.cifar10_class_names),
    "smallnorb": _builder("smallnorb", originals.smallnorb),
    "svhn_cropped": _builder("svhn_cropped", originals.svhn),
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
