"""Predictions for image files, which are read as the run's training images were.

The run's data need not be there. Files that are no images are named, and the others
predicted.
"""

import collections
import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jaxtyping import Array

from capsjax.config import Config
from capsjax.data import Dataset
from capsjax.data.image_files import (
    NotAnImageError,
    NotRead,
    decode,
    files_in,
    resized,
)
from capsjax.errors import UserError
from capsjax.inference.predict import Images, filled_up, make_predict
from capsjax.models import Variables
from capsjax.runs import data_record
from capsjax.runs.folder import RunFolder
from capsjax.runs.progress import Progress
from capsjax.training import augment
from capsjax.training.checkpoint import Which
from capsjax.training.trained import restore_without_data

HONEST = 0.95
"""Share of a run's own images whose reconstruction counts as usual, as in the detector
of attacks, `capsjax.analyses.robustness.detection`."""

_MOST_COMPARED = 1_000  # Of the run's images: 95 % are then known within 1.4 %.
_MOST_SIZES = 3  # Lines about images of other sizes.


class Usual(NamedTuple):
    """What reconstructions of a run's own images are like.

    Attributes:
        distance: the distance that `HONEST` of them do not exceed.
        images: the images in words, such as "180 validation images".
    """

    distance: float
    images: str


@dataclasses.dataclass(frozen=True, eq=False)
class FilePredictions:
    """What a network says of image files.

    Attributes:
        class_names: the J classes.
        files: the N files that are images.
        scores: float32 [N, J], of the kind that the model's config declares.
        distances: float32 [N], Euclidean distances of the images that the network sees
            to the reconstructions of the predicted classes; None without a decoder.
        changes: sentences on what was done to images to suit the network.
        unread: the other files, each with the reason.
        left_out: says how many hidden files, broken links and the like there are.
    """

    class_names: tuple[str, ...]
    files: list[Path]
    scores: npt.NDArray[np.float32]
    distances: npt.NDArray[np.float32] | None
    changes: list[str]
    unread: list[tuple[Path, str]]
    left_out: str

    def top(self, count: int) -> Iterator[list[tuple[str, float]]]:
        """Yields the best classes of each image with their scores, best first."""
        order = np.argsort(-self.scores, axis=1, kind="stable")[:, :count]
        for scores, classes in zip(self.scores, order, strict=True):
            yield [(self.class_names[c], float(scores[c])) for c in classes]


def predict_files(
    run: RunFolder | str | os.PathLike,
    paths: Iterable[str | os.PathLike],
    *,
    which: Which = "last",
) -> FilePredictions:
    """Predicts the classes of image files with the network of a run.

    Args:
        run: folder of the run.
        paths: image files, and folders with images at any depth.
        which: the parameters, as in `capsjax.restore`.

    Raises:
        UserError: see `FilePredictor`.
    """
    return FilePredictor(run, which=which).predict(paths)


class FilePredictor:
    """The network of a run, with the way in which its images are read.

    Attributes:
        has_decoder: whether the network reconstructs images.
    """

    def __init__(
        self,
        run: RunFolder | str | os.PathLike,
        *,
        which: Which = "last",
        max_value: float | None = None,
    ):
        """Restores the network.

        Args:
            run: folder of the run.
            which: the parameters, as in `capsjax.restore`.
            max_value: the value of white in the files; 0 for the largest of each file's
                format. By default that of a run on a folder of images, and 0 after
                other data, whose values were not those of image files.

        Raises:
            UserError: the run cannot be restored, or its images are not gray or RGB.
        """
        folder = run if isinstance(run, RunFolder) else RunFolder(run)
        shape, _ = data_record.recorded_sizes(folder)
        self._height, self._width, self._channels = shape
        if self._channels not in (1, 3):
            raise UserError(
                f"the network in {folder.path} sees {self._channels} channels, which "
                "image files do not have; call capsjax.predict with arrays"
            )
        self._class_names = data_record.recorded_classes(folder)
        self._model = restore_without_data(folder, which)
        source = self._model.config.data
        self._resized_in_training = source.image_size > 0
        if max_value is None:
            max_value = source.max_value if source.name == "folder" else 0.0
        self._max_value = max_value
        self.has_decoder = self._model.config.model.has_decoder
        self._compiled = jax.jit(self._scores_and_distances)

    def predict(
        self, paths: Iterable[str | os.PathLike], *, shown: bool = False
    ) -> FilePredictions:
        """Predicts the classes of image files, batch by batch.

        Args:
            paths: image files, and folders with images at any depth.
            shown: whether progress is shown on standard error.

        Raises:
            UserError: there is no such file or folder, or none is an image.
        """
        given = [Path(path).expanduser() for path in paths]
        not_read = NotRead()
        files = _files(given, not_read)
        where = ", ".join(map(as_text, given))
        if not files:
            raise UserError(f"no file in {where}{not_read.in_words()}")
        reading = _Reading(self._width, self._height, self._channels, self._max_value)
        batch_size = min(self._model.config.batch_size, len(files))
        images, found = [], []
        with Progress("predicting", len(files), unit="files", shown=shown) as progress:
            for number, file in enumerate(files, 1):
                image = reading.read(file)
                if image is not None:
                    images.append(image)
                if images and (len(images) == batch_size or number == len(files)):
                    found.append(self._batch(np.stack(images), batch_size))
                    images = []
                progress.advance()
        if not found:
            first, why = reading.unread[0]
            raise UserError(
                f"no image among the {len(files)} files in {where}; "
                f"{as_text(first)}: {why}"
            )
        columns = {
            name: np.concatenate([part[name] for part in found]) for name in found[0]
        }
        return FilePredictions(
            self._class_names,
            reading.files,
            columns["scores"],
            columns.get("distances"),
            reading.changes(as_in_training=self._resized_in_training),
            reading.unread,
            not_read.in_words().removeprefix("; "),
        )

    def usual(self, data: Dataset) -> Usual:
        """Says how far reconstructions of the run's own images usually are from them.

        Args:
            data: the run's data: of its validation images, or its test images if there
                are none, at most 1,000 are reconstructed.

        Raises:
            ValueError: the network has no decoder.
        """
        if not self.has_decoder:
            raise ValueError("a network without a decoder reconstructs nothing")
        name = "validation" if len(data.validation) else "test"
        images = data.parts()[name].images
        if len(images) > _MOST_COMPARED:  # Of all classes, in whatever order they are.
            chosen = np.linspace(0, len(images) - 1, _MOST_COMPARED).astype(int)
            images = images[chosen]
        size = min(self._model.config.batch_size, len(images))
        distances = [
            self._batch(images[start : start + size], size)["distances"]
            for start in range(0, len(images), size)
        ]
        distance = float(np.quantile(np.concatenate(distances), HONEST))
        return Usual(distance, f"{len(images):,} {name} images")

    def _batch(self, images: np.ndarray, batch_size: int) -> dict[str, np.ndarray]:
        """Results of uint8 images [B, H, W, C], at most a batch of them."""
        filled = filled_up(images, batch_size)
        found = jax.device_get(self._compiled(self._model.variables, filled))
        return {name: rows[: len(images)] for name, rows in found.items()}

    def _scores_and_distances(
        self, variables: Variables, images: Images
    ) -> dict[str, Array]:
        model = self._model
        predict = make_predict(model.graphdef, model.config, reconstruct=True)
        found = predict(variables, images)
        results = {"scores": found["scores"]}
        if self.has_decoder:
            results["distances"] = _distances(
                images, found["reconstructions"], model.config
            )
        return results


def as_text(path: Path) -> str:
    """A path, whose name may be any bytes, as text."""
    return str(path).encode(errors="replace").decode()


def _distances(images: Images, reconstructions: Array, config: Config) -> Array:
    """Euclidean distances [B] of what the network sees to its reconstructions."""
    difference = augment.for_evaluation(images, config) - reconstructions
    return jnp.sqrt(jnp.sum(jnp.square(difference), axis=(1, 2, 3)))


def _files(given: Sequence[Path], not_read: NotRead) -> list[Path]:
    """The files that are given, and those in the folders that are given."""
    found: list[Path] = []
    for path in given:
        try:
            if path.is_dir():
                found += sorted(files_in(path, not_read, frozenset()))
            elif path.exists():
                found.append(path)
            else:
                raise UserError(f"there is no file or folder {as_text(path)}")
        except OSError as error:
            raise UserError(
                f"cannot read {error.filename or as_text(path)} ({error.strerror}); "
                "make it readable"
            ) from error
    return found


class _Reading:
    """Reads files as images of one size, and remembers what was done to them.

    Attributes:
        files: the files that are images.
        unread: the others, with the reason.
    """

    def __init__(self, width: int, height: int, channels: int, max_value: float):
        self.files: list[Path] = []
        self.unread: list[tuple[Path, str]] = []
        self._width, self._height = width, height
        self._mode = "L" if channels == 1 else "RGB"
        self._max_value = max_value
        self._sizes: collections.Counter[tuple[int, int]] = collections.Counter()
        self._other_mode = self._further_frames = 0

    def read(self, file: Path) -> npt.NDArray[np.uint8] | None:
        """Reads a file as uint8 [H, W, C]; None if it is no image."""
        try:
            decoded = decode(file, file.read_bytes(), self._max_value)
        except NotAnImageError:
            self.unread.append((file, "no image"))
            return None
        except OSError as error:
            self.unread.append((file, error.strerror or str(error)))
            return None
        except UserError as error:
            why = str(error).removeprefix(f"{file}: ")
            self.unread.append((file, why))
            return None
        image = decoded.image
        self._further_frames += decoded.further_frames
        if image.mode != self._mode:
            self._other_mode += 1
            image = image.convert(self._mode)
        if image.size != (self._width, self._height):
            self._sizes[image.size] += 1
            image = resized(image, self._width, self._height)
        self.files.append(file)
        return np.asarray(image).reshape(self._height, self._width, -1)

    def changes(self, *, as_in_training: bool) -> list[str]:
        """Says what was done to images to suit the network.

        Args:
            as_in_training: whether the training images were resized, too.
        """
        lines = []
        to = f"to {self._width}x{self._height}, " + (
            "as in training"
            if as_in_training
            else "the size of the training images, which were not resized"
        )
        if len(self._sizes) > _MOST_SIZES:
            total = sum(self._sizes.values())
            lines.append(f"{total} images of {len(self._sizes)} sizes resized {to}")
        else:
            lines += [
                f"{_images(number)} resized from {width}x{height} {to}"
                for (width, height), number in self._sizes.most_common()
            ]
        if self._other_mode and self._mode == "L":
            lines.append(
                f"{_images(self._other_mode)} in colour made gray: the network sees no "
                "colours"
            )
        elif self._other_mode:
            lines.append(
                f"{_images(self._other_mode)} in gray given three equal channels, as "
                "in training"
            )
        if self._further_frames:
            lines.append(f"{self._further_frames} further frames not looked at")
        return lines


def _images(number: int) -> str:
    return f"{number} image{'s' * (number != 1)}"
