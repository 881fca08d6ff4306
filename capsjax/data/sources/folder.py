"""A folder of image files, sorted into one folder per class or listed in a table."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from capsjax.data import parts
from capsjax.data.datasets import Dataset, ImageSet, empty_like
from capsjax.data.image_files import NotAnImageError, NotRead, decode, resized
from capsjax.data.pixel_range import check_range
from capsjax.data.source import Source
from capsjax.data.sources import layouts
from capsjax.data.sources.layouts import Labelled, Layout
from capsjax.data.splits import carve_test, content_key
from capsjax.errors import UserError


def load(source: Source, data_dir: str | None = None) -> Dataset:
    """Loads a folder of images.

    ROOT/CLASS/IMAGE, or the same within a folder for each part, such as ROOT/train,
    ROOT/val and ROOT/test (see `capsjax.data.parts`); or a table of file names and
    labels, see `capsjax.data.sources.label_tables`: ROOT itself, or beside the images.
    Class folders may have folders in them. Classes are numbered in the sorted order of
    their names.

    Without a test part about a fifth of the training images is held out, the same in
    every run (see `capsjax.data.splits.carve_test`), also where there is a validation
    part: that is the validation set, and nothing else.

    Every file that Pillow can read is an image. All others (other files, hidden ones,
    broken links, further frames of animations) are counted in the provenance.

    Images become 8-bit grayscale, or RGB as soon as one of them has colour, see
    `capsjax.data.image_files.decode`. If `max_value` is given, pixel values
    0..max_value are scaled to 0..255.

    Args:
        source: the data set's arguments: `path` is ROOT. `image_size` is the side in
            pixels to which every image is resized (bilinear, antialiased, stretched if
            not square); with 0 all images must have one size.
        data_dir: unused.

    Returns:
        The data set, images uint8 [H, W, 1 or 3].

    Raises:
        UserError: no such folder or another layout, classes without training images,
            images of several sizes, an unreadable file or folder, or images of nearly
            one shade, without `max_value`.
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
    not_read = NotRead()
    layout = layouts.find(root, not_read, given=source.parts == "given")
    reader = _Reader(root, source, layout.class_names, not_read)
    # The hash of the content follows this order.
    given = [
        part
        for part in (parts.TRAIN, parts.TEST, parts.VALIDATION)
        if part in layout.files
    ]
    numbers = [reader.read(layout.files[part]) for part in given]
    if layout.sorted_into:
        reader.check_every_class(layout.sorted_into, numbers[0])
    whole = reader.image_set()
    ends = np.cumsum(numbers)
    sets = {
        part: whole.take(np.arange(end - number, end))
        for part, number, end in zip(given, numbers, ends, strict=True)
    }
    note = ""
    if parts.TEST not in sets:
        sets |= dict(
            zip(
                (parts.TRAIN, parts.TEST),
                carve_test(sets[parts.TRAIN], str(root)),
                strict=True,
            )
        )
        of_which = " of the training images" if parts.VALIDATION in sets else ""
        note = f"; about a fifth{of_which} held out here as the test set"
    if layout.not_used:
        note += f"; not used: {', '.join(layout.not_used)}"
    counts = [(p, len(sets[p])) for p in parts.NAMES if p in sets]
    digest = reader.digest.hexdigest()
    kind = "table" if root.is_file() else "folder"
    return Dataset(
        name="folder",
        train=sets[parts.TRAIN],
        validation=sets.get(parts.VALIDATION, empty_like(whole)),
        test=sets[parts.TEST],
        class_names=layout.class_names,
        provenance=(
            f"image {kind} {root.resolve().name}, sha256 {digest[:16]}: "
            f"{parts.numbers_in_words(counts)} images{note}{not_read.in_words()}"
        ),
        content=f"sha256 {digest}",
        title=f"the {kind} {root.resolve().name}",
        warnings=_warnings(layout),
    )


def _warnings(layout: Layout) -> tuple[str, ...]:
    if not layout.unlabelled:
        return ()
    return (
        f"the folder {layout.unlabelled} has no labels and is not used; about a fifth "
        "of the training images is the test set; experiments.predict says the classes "
        "of images without labels",
    )


class _Reader:
    """The images that have been read so far.

    Attributes:
        digest: hash of the identities and bytes of all images.
    """

    def __init__(
        self,
        root: Path,
        source: Source,
        class_names: Sequence[str],
        not_read: NotRead,
    ) -> None:
        self.digest = hashlib.sha256()
        self._root, self._source, self._not_read = root, source, not_read
        self._numbers = {name: number for number, name in enumerate(class_names)}
        self._files: list[Path] = []
        self._arrays: list[npt.NDArray[np.uint8]] = []
        self._labels: list[int] = []
        self._keys: list[int] = []
        self._peak, self._full = 0, 255

    def read(self, files: Sequence[Labelled]) -> int:
        """Reads the images among some files; returns their number."""
        before = len(self._files)
        for file in tqdm(files, desc="reading images", unit="image", disable=None):
            self._read_file(file)
        return len(self._files) - before

    def check_every_class(self, parent: Path, number: int) -> None:
        """Refuses class folders without an image among the first ones.

        Args:
            parent: the folder of class folders.
            number: number of these images.

        Raises:
            UserError: there is one.
        """
        present = set(self._labels[:number])
        for name, label in self._numbers.items():
            if label not in present:
                raise UserError(
                    f"no image in the class folder {parent / name}"
                    f"{self._not_read.in_words()}; wanted {layouts.WANTED}"
                )

    def image_set(self) -> ImageSet:
        """Returns all images, with C = 3 if any of them has colour.

        Raises:
            UserError: there are none, or all are of nearly one shade.
        """
        arrays = self._arrays
        if not arrays:
            raise UserError(f"no image in {self._root}{self._not_read.in_words()}")
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

    def _read_file(self, labelled: Labelled) -> None:
        file = labelled.file
        content = file.read_bytes()
        try:
            image, peak, full, further = decode(file, content, self._source.max_value)
        except NotAnImageError as error:
            self._not_read.add(error.kind)
            return
        self._not_read.add("further frames", further)
        self._peak, self._full = max(self._peak, peak), max(self._full, full)
        if size := self._source.image_size:
            image = resized(image, size, size)
        array = np.asarray(image)
        if self._arrays and array.shape[:2] != self._arrays[0].shape[:2]:
            sizes = [f"{x.shape[1]}x{x.shape[0]}" for x in (self._arrays[0], array)]
            raise UserError(
                f"images differ in size: {self._files[0]} is {sizes[0]} but {file} is "
                f"{sizes[1]}; give image_size, the side in pixels to which all are "
                "resized"
            )
        entry = f"{labelled.identity}\0{len(content)}\0"
        self.digest.update(entry.encode(errors="surrogateescape"))
        self.digest.update(content)
        self._files.append(file)
        self._arrays.append(array)
        self._labels.append(self._numbers[labelled.label])
        self._keys.append(content_key(content))
