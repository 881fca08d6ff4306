"""A folder of image files, sorted into one folder per class."""

import collections
import dataclasses
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from PIL.MpegImagePlugin import MpegImageFile
from tqdm import tqdm

from capsjax.data import names
from capsjax.data.datasets import Dataset, ImageSet, empty_like
from capsjax.data.pixel_range import check_range, scaled
from capsjax.data.source import Source, check_name
from capsjax.data.splits import carve_test, content_key
from capsjax.errors import UserError

# A file with one of these that Pillow does not recognise is a damaged image.
_SUFFIXES = {
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm"),
    *(".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
}

_LAYOUTS = "ROOT/train/CLASS/*.png with ROOT/test/CLASS/*.png, or ROOT/CLASS/*.png"


def load(source: Source, data_dir: str | None = None) -> Dataset:
    """Loads a folder of images.

    Two layouts: ROOT/train/CLASS/IMAGE with ROOT/test/CLASS/IMAGE, or ROOT/CLASS/IMAGE,
    of which about a fifth is held out as the test set, the same in every run (see
    `capsjax.data.splits.carve_test`). Class folders may have folders in them. Classes
    are numbered in the sorted order of their folders' names.

    Every file that Pillow can read is an image. All others (other files, hidden ones,
    broken links, further frames of animations) are counted in the provenance.

    Images become 8-bit grayscale, or RGB as soon as one of them has colour: 16-bit
    grayscale keeps its high byte, palettes are looked up, transparent pixels are laid
    over white, and a camera's rotation tag is applied. If `max_value` is given, pixel
    values 0..max_value are scaled to 0..255 instead.

    Args:
        source: the data set's arguments: `path` is ROOT. `image_size` is the side in
            pixels to which every image is resized (bilinear, antialiased, stretched if
            not square); with 0 all images must have one size.
        data_dir: unused.

    Returns:
        The data set, images uint8 [H, W, 1 or 3].

    Raises:
        UserError: no such folder or another layout, train and test classes that
            differ, a class without images, images of several sizes, an unreadable file
            or folder, or images of nearly one shade, without `max_value`.
    """
    del data_dir
    root = source.own_path("your image folder")
    try:
        return _load(root, source)
    except OSError as error:
        raise UserError(
            f"cannot read {error.filename or root} ({error.strerror}); make it "
            f"readable, or move it out of {root}"
        ) from error


def _load(root: Path, source: Source) -> Dataset:
    if not root.is_dir():
        raise UserError(f"no folder {root}; wanted {_LAYOUTS}")
    folders = _folders(root)
    parts = [part for part in ("train", "test") if part in folders]
    if len(parts) == 1 and _folders(root / parts[0]):
        raise UserError(
            f"{root} has a folder {parts[0]} of classes but not both train and test; "
            f"wanted {_LAYOUTS}"
        )

    reader = _Reader(root, source)
    if len(parts) == 2:
        classes, test_classes = (_folders(root / part) for part in parts)
        if classes != test_classes:
            odd = sorted(set(classes) ^ set(test_classes))
            raise UserError(
                f"{root / 'train'} and {root / 'test'} differ in the classes "
                f"{', '.join(odd)}; both must have the same class folders"
            )
        reader.count_outside(root)
        numbers = [len(reader.read(root / part)) for part in parts]
        whole = reader.image_set()
        train = whole.take(np.arange(numbers[0]))
        test = whole.take(np.arange(numbers[0], sum(numbers)))
        note = ""
        if unused := sorted(set(folders) - set(parts)):
            note = f"; not used: {', '.join(unused)}"
    else:
        classes = folders
        reader.read(root)
        train, test = carve_test(reader.image_set(), str(root))
        note = "; about a fifth held out here as the test set"

    digest = reader.digest.hexdigest()
    return Dataset(
        name="folder",
        train=train,
        validation=empty_like(train),
        test=test,
        class_names=tuple(classes),
        provenance=(
            f"image folder {root.resolve().name}, sha256 {digest[:16]}: {len(train)} "
            f"training and {len(test)} test images{note}{reader.not_read()}"
        ),
        content=f"sha256 {digest}",
        title=names.in_words("folder", path=str(root)),
    )


def _folders(parent: Path) -> list[str]:
    """Names of the folders in `parent`, sorted; hidden ones left out."""
    found = sorted(
        entry.name
        for entry in parent.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    )
    for name in found:
        check_name(parent / name)
    return found


class _Reader:
    """The images that have been read so far, and the number of files that were not.

    Attributes:
        digest: hash of the names and bytes of all images.
    """

    def __init__(self, root: Path, source: Source) -> None:
        self.digest = hashlib.sha256()
        self._root, self._source = root, source
        self._skipped: collections.Counter[str] = collections.Counter()
        self._files: list[Path] = []
        self._arrays: list[npt.NDArray[np.uint8]] = []
        self._labels: list[int] = []
        self._keys: list[int] = []
        self._peak, self._full = 0, 255

    def read(self, parent: Path) -> list[Path]:
        """Reads the images in the class folders of `parent` and returns their paths."""
        classes = _folders(parent)
        if not classes:
            raise UserError(f"no class folders in {parent}; wanted {_LAYOUTS}")
        self.count_outside(parent)
        files = [
            (file, label)
            for label, name in enumerate(classes)
            for file in sorted(self._walk(parent / name, {parent.resolve()}))
        ]
        start = len(self._files)
        for file, label in tqdm(
            files, desc="reading images", unit="image", disable=None
        ):
            self._read_file(file, label)
        found = np.bincount(self._labels[start:], minlength=len(classes))
        for name, number in zip(classes, found, strict=True):
            if not number:
                raise UserError(
                    f"no image in the class folder {parent / name}{self.not_read()}; "
                    f"wanted {_LAYOUTS}"
                )
        return self._files[start:]

    def count_outside(self, folder: Path) -> None:
        """Counts what lies beside the folders in `folder`."""
        for entry in folder.iterdir():
            if entry.name.startswith("."):
                self._skipped["hidden"] += 1
            elif not entry.is_dir():
                self._skipped["outside the class folders"] += 1

    def image_set(self) -> ImageSet:
        """Returns all images, with C = 3 if any of them has colour."""
        arrays = self._arrays
        if any(array.ndim == 3 for array in arrays):
            arrays = [
                array if array.ndim == 3 else np.repeat(array[..., None], 3, axis=-1)
                for array in arrays
            ]
            images = np.stack(arrays)
        else:
            images = np.stack(arrays)[..., None]
        if not self._source.max_value:
            check_range(images, str(self._root), peak=self._peak, full=self._full)
        made = ImageSet(images, np.array(self._labels, np.int32))
        if self._source.split == "random":
            return made
        return dataclasses.replace(made, keys=np.array(self._keys, np.uint64))

    def not_read(self) -> str:
        """Says how many files were not read, by their kind; "" if there are none."""
        kinds = [f"{number} {kind}" for kind, number in sorted(self._skipped.items())]
        return f"; not read: {', '.join(kinds)}" if kinds else ""

    def _walk(self, folder: Path, above: set[Path]) -> Iterator[Path]:
        """Yields the files in a folder and the folders in it."""
        above = above | {folder.resolve()}
        for entry in folder.iterdir():
            if entry.name.startswith("."):
                self._skipped["hidden"] += 1
            elif not entry.exists():
                self._skipped["broken links"] += 1
            elif entry.is_file():
                yield entry
            elif not entry.is_dir():  # Reading a pipe would wait for ever.
                self._skipped["special files"] += 1
            elif entry.resolve() in above:  # A link that leads back up.
                self._skipped["links to a folder above"] += 1
            else:
                yield from self._walk(entry, above)

    def _read_file(self, file: Path, label: int) -> None:
        try:
            content = file.read_bytes()
            with Image.open(io.BytesIO(content)) as opened:
                # Pillow recognises these formats, but does not read them.
                if isinstance(opened, ImageFile.StubImageFile | MpegImageFile):
                    raise UnidentifiedImageError
                if frames := getattr(opened, "n_frames", 1) - 1:
                    self._skipped["further frames"] += frames
                image = self._eight_bits(ImageOps.exif_transpose(opened))
        except UserError as error:
            raise UserError(f"{file}: {error}") from None
        # A decoder meets a broken file with whatever its format's code raises.
        except Exception as error:
            suffix = file.suffix.lower()
            if isinstance(error, UnidentifiedImageError) and suffix not in _SUFFIXES:
                # A file's name may be any bytes, the provenance is text.
                suffix = suffix.encode(errors="replace").decode()
                self._skipped[f"{suffix or 'unnamed'} files"] += 1
                return
            raise UserError(
                f"cannot read the image {file} ({error}); repair or remove it"
            ) from error
        if size := self._source.image_size:
            image = image.resize((size, size), Image.Resampling.BILINEAR)
        array = np.asarray(image)
        if self._arrays and array.shape[:2] != self._arrays[0].shape[:2]:
            sizes = [f"{x.shape[1]}x{x.shape[0]}" for x in (self._arrays[0], array)]
            raise UserError(
                f"images differ in size: {self._files[0]} is {sizes[0]} but {file} is "
                f"{sizes[1]}; give image_size, the side in pixels to which all are "
                "resized"
            )
        entry = f"{file.relative_to(self._root)}\0{len(content)}\0"
        self.digest.update(entry.encode(errors="surrogateescape"))
        self.digest.update(content)
        self._files.append(file)
        self._arrays.append(array)
        self._labels.append(label)
        self._keys.append(content_key(content))

    def _eight_bits(self, image: Image.Image) -> Image.Image:
        """Converts an image of any mode to mode L or RGB."""
        max_value = self._source.max_value
        if image.mode in ("I", "F") and not max_value:
            raise UserError(
                f"pixels of 32 bits (mode {image.mode}) have no known range; set "
                "config.data.max_value to the value of white"
            )
        if image.mode.startswith("I") or image.mode == "F":
            values = np.asarray(image)
            if not max_value:
                self._peak, self._full = max(self._peak, int(values.max())), 65_535
                return Image.fromarray((values >> 8).astype(np.uint8))
        else:
            image = _gray_or_rgb(image)
            values = np.asarray(image)
            if not max_value:
                self._peak = max(self._peak, int(values.max()))
                return image
        return Image.fromarray(scaled(values, max_value, "the image"))


def _gray_or_rgb(image: Image.Image) -> Image.Image:
    """Converts an image of 8 bits of any mode to mode L or RGB."""
    gray = image.mode in ("1", "L", "LA", "La")
    palette = image.mode in ("P", "PA")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    image = image.convert("L" if gray else "RGB")
    if palette:  # which may hold grays only.
        red, green, blue = image.split()
        if red.tobytes() == green.tobytes() == blue.tobytes():
            return red
    return image
