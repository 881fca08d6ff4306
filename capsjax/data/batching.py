"""Batches out of memory: shuffled ones for training, padded ones for evaluation."""

from collections.abc import Iterator

import numpy as np

from capsjax.data.datasets import ImageSet
from capsjax.errors import UserError


class TrainBatches:
    """Shuffled batches of one size, addressed by step.

    Every epoch has a permutation of its own, and leaves out the last N mod B examples
    of it. `batch` is a pure function of (seed, step), so that a resumed run goes on in
    the very same order.

    Args:
        image_set: N examples.
        batch_size: B, at least 1 and at most N.
        seed: of the permutations, not negative.

    Attributes:
        steps_per_epoch: N // B.

    Raises:
        UserError: `batch_size` or `seed` is out of range.
    """

    def __init__(self, image_set: ImageSet, batch_size: int, seed: int) -> None:
        if not 1 <= batch_size <= len(image_set):
            raise UserError(
                f"batch size {batch_size} with {len(image_set)} training examples; "
                f"choose 1..{len(image_set)}"
            )
        if seed < 0:
            raise UserError(f"seed {seed} is negative; choose 0 or more")
        self.steps_per_epoch = len(image_set) // batch_size
        self._image_set = image_set
        self._batch_size = batch_size
        self._seed = seed
        # The latest epoch and its permutation, made anew only when the epoch changes.
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def batch(self, step: int, rows: slice = slice(None)) -> dict[str, np.ndarray]:
        """Returns the batch of one step, or some rows of it.

        Args:
            step: counted from 0 at the start of training, over all epochs.
            rows: which; nothing is read for the others.

        Returns:
            "image" uint8 [B, H, W, C] and "label" int32 [B].

        Raises:
            ValueError: `step` is negative.
        """
        if step < 0:
            raise ValueError(f"step {step} is negative")
        epoch, index = divmod(step, self.steps_per_epoch)
        cached, order = self._order
        if cached != epoch:
            rng = np.random.default_rng((self._seed, epoch))
            order = rng.permutation(len(self._image_set))
            self._order = epoch, order
        chosen = order[index * self._batch_size : (index + 1) * self._batch_size][rows]
        return {
            "image": self._image_set.images[chosen],
            "label": self._image_set.labels[chosen],
        }


def eval_batches(
    image_set: ImageSet, batch_size: int
) -> Iterator[dict[str, np.ndarray]]:
    """Yields every example once, in order, in batches of one size.

    Args:
        image_set: N examples.
        batch_size: B, at least 1.

    Yields:
        "image" uint8 [B, H, W, C], "label" int32 [B] and "mask" float32 [B], which is
        1 for an example and 0 for the zeros that fill up the last batch.

    Raises:
        UserError: `batch_size` is less than 1.
    """
    if batch_size < 1:
        raise UserError(f"evaluation batch size {batch_size}; choose 1 or more")
    for start in range(0, len(image_set), batch_size):
        images = image_set.images[start : start + batch_size]
        labels = image_set.labels[start : start + batch_size]
        padding = batch_size - len(labels)
        mask = np.ones(len(labels), np.float32)
        if padding:
            images = np.pad(images, [(0, padding)] + [(0, 0)] * 3)
            labels = np.pad(labels, (0, padding))
            mask = np.pad(mask, (0, padding))
        yield {"image": images, "label": labels, "mask": mask}
