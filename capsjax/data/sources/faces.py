"""Faces: drawn faces against drawings that lack a part, made here without a download.

An outline with two eyes, a nose and a mouth is a face; the same without at least one of
them, in whose place there may be a doodle, is none. Nobody who learns from them sees
the parts of a face in wrong places: what networks say to those,
`capsjax.data.sources.faces_scrambled`, tells whether they care where parts are.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from capsjax.data.datasets import Dataset, ImageSet, empty_like
from capsjax.data.source import Source
from capsjax.data.sources import faces_scenes, faces_scrambled
from capsjax.data.sources.faces_drawing import draw
from capsjax.data.sources.faces_scenes import Floats, Scenes

NUM_TRAIN, NUM_TEST = 10_000, faces_scrambled.NUM_TEST
CLASS_NAMES = ("not a face", "face")
NOT_A_FACE, FACE = range(2)

DOODLE_SHARE = 0.5
"""Share of the missing parts that a doodle replaces, unless there are to be none."""

_TRAIN_SEED, _TEST_SEED = (1_742, 0), faces_scrambled.TEST_SEED
_WITHOUT, _SHARE = 0, 1  # Streams of random numbers besides those of the faces.


class Drawn(NamedTuple):
    """Scenes of a set of images, with their labels.

    Attributes:
        scenes: N scenes.
        labels: int32 [N], `FACE` or `NOT_A_FACE`.
    """

    scenes: Scenes
    labels: npt.NDArray[np.int32]

    def positions(self) -> Floats:
        """[N, 4, 2], rows and columns in pixels of the parts; NaN where is nothing."""
        drawn = self.scenes.drawn[:, :, None]
        return np.where(drawn, self.scenes.positions(), np.nan)


def load(source: Source, data_dir: str | None = None) -> Dataset:
    """Draws the faces, the same in every run.

    Args:
        source: the data set's arguments, of which `scrambled_share` and
            `without_doodles` count.
        data_dir: unused; the images are made here.

    Returns:
        Images uint8 [N, 28, 28, 1] and the classes `CLASS_NAMES`, half of each.
    """
    del data_dir
    share = source.scrambled_share
    doodles = 0.0 if source.without_doodles else DOODLE_SHARE
    train = _image_set(drawn_for_training(NUM_TRAIN, share, doodles))
    scrambled = f"; {share:g} of the training images without a face are shuffled faces"
    about = "drawn faces, version 1" + scrambled * (share > 0)
    about += "; no doodles" * source.without_doodles
    return Dataset(
        name="faces",
        train=train,
        validation=empty_like(train),
        test=_image_set(drawn_for_testing(NUM_TEST, doodles)),
        class_names=CLASS_NAMES,
        provenance=f"{about}, {NUM_TRAIN + NUM_TEST} images made here",
        content=about,
    )


def drawn_for_training(
    count: int, scrambled_share: float = 0.0, doodle_share: float = DOODLE_SHARE
) -> Drawn:
    """The first of the training images, every second of which is a face.

    Args:
        count: number of images.
        scrambled_share: share of the others that are faces whose parts are shuffled;
            a larger share contains the images of a smaller one.
        doodle_share: share of the missing parts that a doodle replaces.
    """
    indices, drawn = np.arange(count), _scenes(_TRAIN_SEED, count, doodle_share)
    if not scrambled_share:
        return drawn
    chosen = faces_scenes.Numbers([*_TRAIN_SEED, _SHARE], indices).uniform(0, 1)
    whole = faces_scenes.faces(_TRAIN_SEED, indices)
    shuffled = faces_scrambled.scramble(whole, "shuffled", 0.0, _TRAIN_SEED, indices)
    where = (drawn.labels == NOT_A_FACE) & (chosen < scrambled_share)
    return drawn._replace(scenes=drawn.scenes.replaced(where, shuffled))


def drawn_for_testing(count: int, doodle_share: float = DOODLE_SHARE) -> Drawn:
    """The first of the test images, every second of which is a face."""
    return _scenes(_TEST_SEED, count, doodle_share)


def _scenes(seed: tuple[int, ...], count: int, doodle_share: float) -> Drawn:
    indices = np.arange(count)
    labels = (indices % 2).astype(np.int32)
    scenes = faces_scenes.faces(seed, indices)
    without = faces_scenes.without_parts(
        scenes, [*seed, _WITHOUT], indices, doodle_share
    )
    return Drawn(scenes.replaced(labels == NOT_A_FACE, without), labels)


def _image_set(drawn: Drawn) -> ImageSet:
    return ImageSet(draw(drawn.scenes), drawn.labels)
