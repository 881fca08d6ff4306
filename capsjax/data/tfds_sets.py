"""Image classification sets that TensorFlow Datasets has prepared on disk.

They are read with TFDS's random-access data sources, which need no TensorFlow, and
decoded once into memory. `capsjax.data.prepare` puts them on disk.
"""

import io
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tqdm import tqdm

from capsjax.data.datasets import Dataset, ImageSet, Source, empty_like
from capsjax.errors import UserError

_READ_AHEAD = 1000
"""Records per read: one read per record takes twice as long."""


def load(name: str, source: Source) -> Dataset:
    """Loads a prepared data set whole.

    Args:
        name: its TFDS name, for instance "mnist".
        source: `data_dir` says where the prepared data sets are.

    Returns:
        The training and test images as stored, and the stored class names.

    Raises:
        UserError: the data set is not prepared there, not stored as array_record, or
            its files cannot be read.
    """
    try:
        builder = tfds.builder(name, data_dir=source.data_dir or None)
    # protobuf's and JSON's errors, for metadata that are cut off.
    except Exception as error:
        raise UserError(
            f"cannot open {name} in {source.data_dir or 'the default data directory'} "
            f"({error}); delete its directory there and prepare it again by: "
            f"python -m experiments.prepare_data --dataset={name}"
        ) from error
    prepare = (
        f"python -m experiments.prepare_data --dataset={name} "
        f"--data_dir={builder.data_dir_root}"
    )
    if not builder.info.initialized:
        raise UserError(
            f"no {name} {builder.version} in the data directory "
            f"{builder.data_dir_root}; prepare it by: {prepare} (or give the data_dir "
            "that has it)"
        )

    shape = builder.info.features["image"].shape
    image_sets, oddities = {}, []
    for split in ("train", "test"):
        try:
            records = builder.as_data_source(
                split, decoders={"image": tfds.decode.SkipDecoding()}
            )
            image_sets[split], oddity = _decode(records, shape, f"{name} {split}")
        except NotImplementedError:
            raise UserError(
                f"{builder.data_dir} is not stored as array_record, the one format "
                "that is read without TensorFlow; move it away and prepare it by: "
                f"{prepare}"
            ) from None
        # Damage surfaces as RuntimeError from array_record, DecodeError from protobuf,
        # and OSError, SyntaxError or ValueError from the image decoder.
        except Exception as error:
            raise UserError(
                f"the {split} files of {name} in {builder.data_dir} are missing or "
                f"damaged ({error}); delete that directory and prepare it again by: "
                f"{prepare}"
            ) from error
        if oddity and oddity not in oddities:
            oddities.append(oddity)

    return Dataset(
        name=name,
        train=image_sets["train"],
        validation=empty_like(image_sets["train"]),
        test=image_sets["test"],
        class_names=tuple(builder.info.features["label"].names),
        provenance="; ".join(
            [
                f"{name} {builder.version} in TensorFlow Datasets form "
                f"({builder.info.homepage})",
                *oddities,
            ]
        ),
    )


def _decode(
    records: Any, shape: tuple[int, int, int], title: str
) -> tuple[ImageSet, str]:
    """Decodes all records; also says in words if their images went through JPEG."""
    n = len(records)
    images = np.empty((n, *shape), np.uint8)
    labels = np.empty(n, np.int32)
    oddity = ""
    # disable=None: a bar on a terminal only.
    with tqdm(total=n, desc=f"reading {title}", unit="image", disable=None) as bar:
        for start in range(0, n, _READ_AHEAD):
            indices = range(start, min(start + _READ_AHEAD, n))
            # __getitems__ is the data source's documented way to read many at once.
            batch = records.__getitems__(list(indices))
            for index, record in zip(indices, batch, strict=True):
                with Image.open(io.BytesIO(record["image"])) as image:
                    if image.format == "JPEG" and not oddity:
                        oddity = (
                            f"images stored as JPEG of quality {_jpeg_quality(image)}, "
                            "so pixels differ a little from the originals"
                        )
                    # [H, W] of a gray image to [H, W, 1]; any other size raises.
                    images[index] = np.asarray(image).reshape(shape)
                labels[index] = record["label"]
            bar.update(len(indices))
    return ImageSet(images, labels), oddity


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
