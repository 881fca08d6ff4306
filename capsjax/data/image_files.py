"""Image files: found in folders, and decoded to 8 bits of gray or RGB."""

import collections
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from PIL.MpegImagePlugin import MpegImageFile

from capsjax.data.pixel_range import scaled
from capsjax.errors import UserError

# A file with one of these that Pillow does not recognise is a damaged image.
_SUFFIXES = {
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm"),
    *(".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
}


class NotAnImageError(Exception):
    """A file that neither is an image nor has the name of one.

    Attributes:
        kind: such files in words, such as ".txt files".
    """

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class Decoded(NamedTuple):
    """The first frame of an image file.

    Attributes:
        image: of mode L or RGB.
        peak: the largest value as stored; 0 if the value of white was given.
        full: the largest value of the stored format.
        further_frames: number of frames that follow.
    """

    image: Image.Image
    peak: int
    full: int
    further_frames: int


class NotRead:
    """Counts of the files that are not read, by their kind."""

    def __init__(self) -> None:
        self._counts: collections.Counter[str] = collections.Counter()

    def add(self, kind: str, number: int = 1) -> None:
        """Counts files of a kind, such as "hidden"."""
        if number:
            self._counts[kind] += number

    def in_words(self) -> str:
        """Says how many files were not read; "" if there are none."""
        kinds = [f"{number} {kind}" for kind, number in sorted(self._counts.items())]
        return f"; not read: {', '.join(kinds)}" if kinds else ""


def files_in(folder: Path, not_read: NotRead, above: frozenset[Path]) -> Iterator[Path]:
    """Yields the files in a folder and the folders in it.

    Args:
        folder: the folder.
        not_read: receives what is neither a file nor a folder, and hidden files.
        above: resolved folders that lead here, to which no link is followed.

    Raises:
        OSError: a folder cannot be read.
    """
    above = above | {folder.resolve()}
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            not_read.add("hidden")
        elif not entry.exists():
            not_read.add("broken links")
        elif entry.is_file():
            yield entry
        elif not entry.is_dir():  # Reading a pipe would wait for ever.
            not_read.add("special files")
        elif entry.resolve() in above:  # A link that leads back up.
            not_read.add("links to a folder above")
        else:
            yield from files_in(entry, not_read, above)


def decode(file: Path, content: bytes, max_value: float) -> Decoded:
    """Decodes an image of any format, size and mode.

    16-bit grayscale keeps its high byte, palettes are looked up, transparent pixels are
    laid over white, and a camera's rotation tag is applied.

    Args:
        file: the file's path, for the error texts.
        content: its bytes.
        max_value: the value of white, which becomes 255; 0 for the largest one of the
            file's format.

    Raises:
        NotAnImageError: it is no image, and is not called like one.
        UserError: it is a damaged image, or its values have no known range.
    """
    try:
        with Image.open(io.BytesIO(content)) as opened:
            # Pillow recognises these formats, but does not read them.
            if isinstance(opened, ImageFile.StubImageFile | MpegImageFile):
                raise UnidentifiedImageError
            further_frames = getattr(opened, "n_frames", 1) - 1
            image = ImageOps.exif_transpose(opened)
            return Decoded(*_eight_bits(image, max_value), further_frames)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    # A decoder meets a broken file with whatever its format's code raises.
    except Exception as error:
        suffix = file.suffix.lower()
        if isinstance(error, UnidentifiedImageError) and suffix not in _SUFFIXES:
            # A file's name may be any bytes, the provenance is text.
            suffix = suffix.encode(errors="replace").decode()
            raise NotAnImageError(f"{suffix or 'unnamed'} files") from None
        raise UserError(
            f"cannot read the image {file} ({error}); repair or remove it"
        ) from error


def resized(image: Image.Image, width: int, height: int) -> Image.Image:
    """Resizes an image: bilinear, antialiased when shrinking, stretched if need be."""
    return image.resize((width, height), Image.Resampling.BILINEAR)


def _eight_bits(image: Image.Image, max_value: float) -> tuple[Image.Image, int, int]:
    """Converts an image of any mode to mode L or RGB; with its peak and full value."""
    if image.mode in ("I", "F") and not max_value:
        raise UserError(
            f"pixels of 32 bits (mode {image.mode}) have no known range; set "
            "config.data.max_value to the value of white"
        )
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        if not max_value:
            high_byte = Image.fromarray((values >> 8).astype(np.uint8))
            return high_byte, int(values.max()), 65_535
    else:
        image = _gray_or_rgb(image)
        values = np.asarray(image)
        if not max_value:
            return image, int(values.max()), 255
    return Image.fromarray(scaled(values, max_value, "the image")), 0, 255


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
