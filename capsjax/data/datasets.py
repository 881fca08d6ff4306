"""Labelled images in memory: the results of loaders."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from capsjax.data import names
from capsjax.data.pixel_range import scaled
from capsjax.errors import UserError


class Examples(Protocol):
    """Labelled images, accessed by index."""

    def batch(self, indices: npt.NDArray[np.integer]) -> dict[str, np.ndarray]:
        """Returns some examples in the form that training and evaluation steps take.

        Args:
            indices: [B].

        Returns:
            "image" uint8 [B, H, W, C] and "label" int32 [B], or [B, K] where each image
            shows K classes; then also "parts" uint8 [B, K, H, W, C], the K images that
            each image is made of.
        """
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and their labels, decoded once into memory.

    Attributes:
        images: uint8 [N, H, W, C]. A signal is an image of one row; a volume is an
            image whose channels are its depth.
        labels: int32 [N], or [N, K] where each image shows K classes.
        keys: uint64 [N], a hash of each example's bytes, which decides about the part
            of a split it falls in; None for random splits.

    Raises:
        UserError: another shape or dtype.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]
    keys: npt.NDArray[np.uint64] | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != np.uint8:
            raise UserError(
                f"images have dtype {images.dtype}; store them as uint8 0..255, or set "
                "config.data.max_value to the value of white (1 for floats in 0..1)"
            )
        if images.ndim != 4 or 0 in images.shape[1:]:
            raise _wrong_shape(images)
        if labels.dtype != np.int32 or labels.ndim not in (1, 2):
            raise UserError(
                f"labels have dtype {labels.dtype} and shape {labels.shape}; "
                "wanted int32 [N], or [N, K] for images of K classes"
            )
        if len(images) != len(labels):
            raise UserError(f"{len(images)} images but {len(labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def batch(self, indices: npt.NDArray[np.integer]) -> dict[str, np.ndarray]:
        """See `Examples.batch`."""
        return {"image": self.images[indices], "label": self.labels[indices]}

    def for_epoch(self, rng: np.random.Generator) -> Examples:
        """Returns the N examples of one epoch of training, here always the same.

        Args:
            rng: the epoch's generator, for image sets whose epochs differ.
        """
        del rng
        return self

    def take(self, indices: npt.NDArray[np.integer]) -> "ImageSet":
        """Returns the examples at `indices`, integers [M], in that order."""
        keys = None if self.keys is None else self.keys[indices]
        return ImageSet(self.images[indices], self.labels[indices], keys=keys)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set: three image sets over one list of classes.

    Attributes:
        name: the data set's name in `capsjax.data.DATASETS`.
        train: the training examples.
        validation: examples held out of the training images, or the data's own
            validation part; may be empty.
        test: the test examples.
        class_names: one name per label value.
        provenance: one line for records and reports: the data's origin and version, and
            anything unusual about them.
        content: a text that differs where the data differ: name and version of a
            published data set, or a hash of all files; by default a hash of the arrays.
        data_dir: the TensorFlow Datasets directory that `capsjax.data.load` was given.
        title: the name in words, for figures and tables; by default that of `name`.
        warnings: sentences on what users should know before they trust results.

    Raises:
        UserError: no training or test examples, image shapes that differ between the
            sets, or a label outside [0, num_classes).
    """

    name: str
    train: ImageSet
    validation: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]
    provenance: str
    content: str = ""
    data_dir: str | None = None
    title: str = ""
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.title:
            object.__setattr__(self, "title", names.in_words(self.name))
        if not self.content:
            digest = hashlib.sha256()
            for part in self.parts().values():
                digest.update(np.ascontiguousarray(part.images))
                digest.update(np.ascontiguousarray(part.labels))
            object.__setattr__(self, "content", f"sha256 {digest.hexdigest()}")
        for split, image_set in self.parts().items():
            if not len(image_set):
                if split != "validation":
                    raise UserError(f"{self.name}: the {split} set is empty")
                continue
            if image_set.image_shape != self.image_shape:
                raise UserError(
                    f"{self.name}: train images have shape {self.image_shape} but "
                    f"{split} images {image_set.image_shape}; they must agree"
                )
            lowest, highest = int(image_set.labels.min()), int(image_set.labels.max())
            if lowest < 0 or highest >= self.num_classes:
                raise UserError(
                    f"{self.name}: {split} labels span {lowest}..{highest} but there "
                    f"are {self.num_classes} classes, 0..{self.num_classes - 1}"
                )

    def with_classes(
        self, class_names: Sequence[str], numbers: npt.NDArray[np.int32]
    ) -> "Dataset":
        """Renumbers the classes.

        Args:
            class_names: the new classes.
            numbers: int32 [num_classes], the new number of each class of this data set.
        """
        parts: dict[str, Any] = {
            name: dataclasses.replace(part, labels=numbers[part.labels])
            for name, part in self.parts().items()
        }
        return dataclasses.replace(self, class_names=tuple(class_names), **parts)

    def parts(self) -> dict[str, ImageSet]:
        """Returns the image sets by their names: train, validation, test."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        return self.train.image_shape


def empty_like(image_set: ImageSet) -> ImageSet:
    """Returns an image set of length 0 with the same image shape."""
    return image_set.take(np.arange(0))


def as_image_set(
    images: np.ndarray, labels: np.ndarray, what: str, max_value: float = 0.0
) -> ImageSet:
    """Makes an image set of the user's arrays.

    Args:
        images: uint8 [N, H, W, C], or [N, H, W] for grayscale; any numbers if
            `max_value` is given.
        labels: any integer dtype, [N] or [N, 1].
        what: the arrays' origin, which begins the error texts.
        max_value: the value of white; 0 for 255.

    Returns:
        The image set; grayscale images have been given a channel axis.

    Raises:
        UserError: the arrays cannot be read as labelled images.
    """
    if images.ndim == 3:
        images = images[..., None]
    if max_value and images.dtype.kind in "biuf":
        images = scaled(images, max_value, what)
    if labels.ndim == 2 and labels.shape[1] == 1:  # as Keras stores CIFAR-10's.
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise UserError(
            f"{what}: labels have dtype {labels.dtype} and shape {labels.shape}; "
            "store one integer per image (of one-hot rows, the argmax)"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < 2**31:
        raise UserError(
            f"{what}: labels span {labels.min()}..{labels.max()}; "
            "store class numbers counted from 0"
        )
    try:
        # More than four are rows or columns, of images with their channels first.
        if images.ndim == 4 and images.dtype == np.uint8 and images.shape[3] > 4:
            raise _wrong_shape(images)
        return ImageSet(images, labels.astype(np.int32))
    except UserError as error:
        raise UserError(f"{what}: {error}") from None


def _wrong_shape(images: np.ndarray) -> UserError:
    return UserError(
        f"images have shape {images.shape}; wanted [N, H, W, C] with 1 to 4 channels, "
        "channels last"
    )


def resize(image_set: ImageSet, side: int) -> ImageSet:
    """Resizes all images to `side` x `side` pixels.

    Bilinear, antialiased when shrinking; an image that is not square is stretched.

    Args:
        image_set: images of shape [N, H, W, C].
        side: the new height and width in pixels.

    Returns:
        Images of shape [N, side, side, C]; `image_set` itself if it has that size.
    """
    n, height, width, channels = image_set.images.shape
    if (height, width) == (side, side):
        return image_set
    images = np.empty((n, side, side, channels), np.uint8)
    for source, target in zip(image_set.images, images, strict=True):
        for channel in range(channels):
            plane = Image.fromarray(np.ascontiguousarray(source[..., channel]))
            plane = plane.resize((side, side), Image.Resampling.BILINEAR)
            target[..., channel] = np.asarray(plane)
    return ImageSet(images, image_set.labels, keys=image_set.keys)
