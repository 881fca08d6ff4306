"""A folder of image files, sorted into one folder per class."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from tqdm import tqdm

from capsjax.data.datasets import (
    Dataset,
    ImageSet,
    Source,
    carve_test,
    empty_like,
)
from capsjax.errors import UserError

SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
"""Files with another suffix are ignored, as are hidden ones."""

_LAYOUTS = "ROOT/train/CLASS/*.png with ROOT/test/CLASS/*.png, or ROOT/CLASS/*.png"


def load(source: Source) -> Dataset:
    """Loads a folder of images.

    Two layouts: ROOT/train/CLASS/IMAGE with ROOT/test/CLASS/IMAGE, or ROOT/CLASS/IMAGE,
    of which a fifth of each class is held out as the test set, the same in every run.
    Classes are numbered in the sorted order of their folders' names.

    Images become 8-bit grayscale, or RGB as soon as one of them has colour: 16-bit
    grayscale keeps its high byte, palettes are looked up, transparent pixels are laid
    over white, and a camera's rotation tag is applied.

    Args:
        source: `path` is ROOT. `image_size` is the side in pixels to which every image
            is resized (bilinear, antialiased, stretched if not square); with 0 all
            images must have one size.

    Returns:
        The data set, images uint8 [H, W, 1 or 3].

    Raises:
        UserError: no such folder or another layout, train and test classes that
            differ, a class without images, images of several sizes, an unreadable file.
    """
    root = source.own_path("your image folder")
    if not root.is_dir():
        raise UserError(f"no folder {root}; wanted {_LAYOUTS}")
    folders = _folders(root)
    parts = [part for part in ("train", "test") if part in folders]
    if len(parts) == 1 and _folders(root / parts[0]):
        raise UserError(
            f"{root} has a folder {parts[0]} of classes but not both train and test; "
            f"wanted {_LAYOUTS}"
        )

    if len(parts) == 2:
        classes, train_files, train_labels = _files(root / "train")
        test_classes, test_files, test_labels = _files(root / "test")
        if classes != test_classes:
            odd = sorted(set(classes) ^ set(test_classes))
            raise UserError(
                f"{root / 'train'} and {root / 'test'} differ in the classes "
                f"{', '.join(odd)}; both must have the same class folders"
            )
        images = _read(train_files + test_files, source.image_size)
        n = len(train_files)
        train = ImageSet(images[:n], np.array(train_labels, np.int32))
        test = ImageSet(images[n:], np.array(test_labels, np.int32))
        unused = sorted(set(folders) - {"train", "test"})
        note = f"; not used: {', '.join(unused)}" if unused else ""
    else:
        classes, files, labels = _files(root)
        images = _read(files, source.image_size)
        train, test = carve_test(
            ImageSet(images, np.array(labels, np.int32)), str(root)
        )
        note = "; a fifth of each class held out here as the test set"

    return Dataset(
        name="folder",
        train=train,
        validation=empty_like(train),
        test=test,
        class_names=tuple(classes),
        provenance=(
            f"image folder {root.resolve().name}: {len(train)} training and "
            f"{len(test)} test images{note}"
        ),
    )


def _folders(parent: Path) -> list[str]:
    """Names of the folders in `parent`, sorted; hidden ones left out."""
    return sorted(
        entry.name
        for entry in parent.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    )


def _files(parent: Path) -> tuple[list[str], list[Path], list[int]]:
    """Lists class names, and every image file with its class number."""
    classes = _folders(parent)
    if not classes:
        raise UserError(f"no class folders in {parent}; wanted {_LAYOUTS}")
    files, labels = [], []
    for label, name in enumerate(classes):
        found = sorted(
            entry
            for entry in (parent / name).iterdir()
            if entry.suffix.lower() in SUFFIXES
            and not entry.name.startswith(".")
            and entry.is_file()
        )
        if not found:
            raise UserError(
                f"no image in the class folder {parent / name} "
                f"(suffixes {', '.join(sorted(SUFFIXES))}); wanted {_LAYOUTS}"
            )
        files += found
        labels += [label] * len(found)
    return classes, files, labels


def _read(files: list[Path], image_size: int) -> npt.NDArray[np.uint8]:
    """Reads all files into uint8 [N, H, W, C], C = 3 if any of them has colour."""
    arrays: list[npt.NDArray[np.uint8]] = []
    for file in tqdm(files, desc="reading images", unit="image", disable=None):
        try:
            with Image.open(file) as opened:
                image = _gray_or_rgb(ImageOps.exif_transpose(opened))
        except UserError as error:
            raise UserError(f"{file}: {error}") from None
        # A decoder meets a broken file with whatever its format's code raises.
        except Exception as error:
            raise UserError(
                f"cannot read the image {file} ({error}); repair or remove it"
            ) from error
        if image_size:
            image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
        arrays.append(np.asarray(image))
        if arrays[-1].shape[:2] != arrays[0].shape[:2]:
            (height, width), (other_height, other_width) = (
                arrays[0].shape[:2],
                arrays[-1].shape[:2],
            )
            raise UserError(
                f"images differ in size: {files[0]} is {width}x{height} but {file} is "
                f"{other_width}x{other_height}; give image_size, the side in pixels to "
                "which all are resized"
            )
    if any(array.ndim == 3 for array in arrays):
        return np.stack(
            [
                array if array.ndim == 3 else np.repeat(array[..., None], 3, axis=-1)
                for array in arrays
            ]
        )
    return np.stack(arrays)[..., None]


def _gray_or_rgb(image: Image.Image) -> Image.Image:
    """Converts an image of any mode to mode L or RGB."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise UserError(
            f"pixels of 32 bits (mode {image.mode}) have no known range; "
            "save the image with 8 or 16 bits per channel"
        )
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
