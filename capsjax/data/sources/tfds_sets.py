"""Image classification sets that TensorFlow Datasets has prepared on disk.

They are read with TFDS's random-access data sources, which need no TensorFlow, and
decoded once into memory. `capsjax.data.prepare` puts them on disk.
"""

import dataclasses
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow_datasets as tfds
from PIL import Image
from tqdm import tqdm

from capsjax.data.datasets import Dataset, ImageSet, empty_like
from capsjax.data.source import Source
from capsjax.errors import UserError

Transform = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]
"""A function of an image uint8 [H, W, C] to another one, of any size."""

_READ_AHEAD = 1000
"""Records per read: one read per record takes twice as long."""

_JPEG_START = bytes.fromhex("ffd8ff")


def load(name: str, source: Source, data_dir: str | None = None) -> Dataset:
    """Loads a prepared data set of images with one label each.

    Args:
        name: the data set's TFDS name, for instance "mnist".
        source: unused; the data set has no settings.
        data_dir: the TensorFlow Datasets directory; None is TFDS's own default.

    Returns:
        The training and test images as stored, and the stored class names.

    Raises:
        UserError: the data set is not prepared there, not stored as array_record, or
            its files cannot be read.
    """
    del source
    builder = open_prepared(name, data_dir)
    train, test = (read_split(builder, split) for split in ("train", "test"))
    return Dataset(
        name=name,
        train=train.image_set("label"),
        validation=empty_like(train.image_set("label")),
        test=test.image_set("label"),
        class_names=tuple(builder.info.features["label"].names),
        provenance=provenance(builder, train, test),
        content=content(builder),
    )


def open_prepared(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    """Opens a prepared data set, of which `read_split` then reads a split.

    Args:
        name: the data set's TFDS name.
        data_dir: the TensorFlow Datasets directory; None or "" is TFDS's own default.

    Returns:
        TFDS's builder of it.

    Raises:
        UserError: the data set is not prepared there, or its description is damaged.
    """
    try:
        builder = tfds.builder(name, data_dir=data_dir or None)
    # protobuf's and JSON's errors, for metadata that are cut off.
    except Exception as error:
        raise UserError(
            f"cannot open {name} in {data_dir or 'the default data directory'} "
            f"({error}); delete its directory there and prepare it again by: "
            f"python -m experiments.prepare_data --dataset={name}"
        ) from error
    if not builder.info.initialized:
        raise UserError(
            f"no {name} {builder.version} in the data directory "
            f"{builder.data_dir_root}; prepare it by: {_command(builder)} (or give the "
            "data_dir that has it)"
        )
    return builder


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """A split of a prepared data set, decoded.

    Attributes:
        images: uint8 [N, H, W, C].
        labels: int32 [N] by feature, for instance "label".
        oddity: a clause that says that the images went through JPEG, or "".
    """

    images: npt.NDArray[np.uint8]
    labels: dict[str, npt.NDArray[np.int32]]
    oddity: str

    def image_set(self, label: str) -> ImageSet:
        """Returns the images with the feature `label` as their labels."""
        return ImageSet(self.images, self.labels[label])


def read_split(
    builder: tfds.core.DatasetBuilder,
    split: str,
    image_features: Sequence[str] = ("image",),
    label_features: Sequence[str] = ("label",),
    transform: Transform = lambda image: image,
) -> Split:
    """Reads one split of a prepared data set whole.

    Args:
        builder: the builder that `open_prepared` returned.
        split: "train" or "test".
        image_features: the features that hold images, all of one size; their channels
            are concatenated.
        label_features: the features that hold integers.
        transform: a function that is applied to each image, uint8 [H, W, C].

    Returns:
        The images and labels, in the order of the records.

    Raises:
        UserError: the data set is not stored as array_record, or its files cannot be
            read.
    """
    try:
        decoders = dict.fromkeys(image_features, tfds.decode.SkipDecoding())
        records = builder.as_data_source(split, decoders=decoders)
        return _decode(
            builder,
            records,
            f"{builder.name} {split}",
            image_features,
            label_features,
            transform,
        )
    except NotImplementedError:
        raise UserError(
            f"{builder.data_dir} is not stored as array_record, the one format "
            "that is read without TensorFlow; move it away and prepare it by: "
            f"{_command(builder)}"
        ) from None
    # Damage surfaces as RuntimeError from array_record, DecodeError from protobuf,
    # and OSError, SyntaxError or ValueError from the image decoder.
    except Exception as error:
        raise UserError(
            f"the {split} files of {builder.name} in {builder.data_dir} are missing or "
            f"damaged ({error}); delete that directory and prepare it again by: "
            f"{_command(builder)}"
        ) from error


def provenance(builder: tfds.core.DatasetBuilder, *splits: Split) -> str:
    """Describes in one line the data set that was read, and its images' oddity."""
    oddities = dict.fromkeys(split.oddity for split in splits if split.oddity)
    return "; ".join(
        [
            f"{builder.name} {builder.version} in TensorFlow Datasets form "
            f"({builder.info.homepage})",
            *oddities,
        ]
    )


def content(builder: tfds.core.DatasetBuilder) -> str:
    """Returns the data set's name and version, see `Dataset.content`."""
    return f"{builder.name} {builder.version}"


def _command(builder: tfds.core.DatasetBuilder) -> str:
    """Returns the command that prepares the data set."""
    return (
        f"python -m experiments.prepare_data --dataset={builder.name} "
        f"--data_dir={builder.data_dir_root}"
    )


def _decode(
    builder: tfds.core.DatasetBuilder,
    records: Any,
    title: str,
    image_features: Sequence[str],
    label_features: Sequence[str],
    transform: Transform,
) -> Split:
    """Decodes all records."""
    n = len(records)
    shapes = {name: builder.info.features[name].shape for name in image_features}
    plain = [np.zeros(shape, np.uint8) for shape in shapes.values()]
    images = np.empty((n, *transform(np.concatenate(plain, -1)).shape), np.uint8)
    labels = {name: np.empty(n, np.int32) for name in label_features}
    oddity = ""
    # disable=None: a bar on a terminal only.
    with tqdm(total=n, desc=f"reading {title}", unit="image", disable=None) as bar:
        for start in range(0, n, _READ_AHEAD):
            indices = range(start, min(start + _READ_AHEAD, n))
            # __getitems__ is the data source's documented way to read many at once.
            batch = records.__getitems__(list(indices))
            for index, record in zip(indices, batch, strict=True):
                oddity = oddity or _oddity(record[image_features[0]])
                parts = [_pixels(record[name], shapes[name]) for name in shapes]
                images[index] = transform(np.concatenate(parts, -1))
                for name in label_features:
                    labels[name][index] = record[name]
            bar.update(len(indices))
    return Split(images, labels, oddity)


def _pixels(content: bytes, shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """Decodes one image file to uint8 [H, W, C]."""
    with Image.open(io.BytesIO(content)) as image:
        # [H, W] of a gray image to [H, W, 1]; any other size raises.
        return np.asarray(image).reshape(shape)


def _oddity(content: bytes) -> str:
    """Returns a clause that says that an image went through JPEG, or ""."""
    if not content.startswith(_JPEG_START):  # Opening the image would take longer.
        return ""
    with Image.open(io.BytesIO(content)) as image:
        return (
            f"images stored as JPEG of quality {_jpeg_quality(image)}, "
            "so pixels differ a little from the originals"
        )


def _jpeg_quality(image: Image.Image) -> int | str:
    """Finds the quality setting whose quantization tables a JPEG image has."""
    tables = image.quantization  # type: ignore[attr-defined]
    for quality in range(1, 101):
        buffer = io.BytesIO()
        Image.new(image.mode, (8, 8)).save(buffer, "JPEG", quality=quality)
        with Image.open(buffer) as probe:
            if probe.quantization == tables:  # type: ignore[attr-defined]
                return quality
    return "unknown"
