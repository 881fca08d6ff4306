"""Batches of images in memory: shuffled for training, padded for evaluation."""

from collections.abc import Iterator

import numpy as np

from capsjax.data.datasets import Examples, ImageSet
from capsjax.errors import UserError


class TrainBatches:
    """Shuffled batches of one size, addressed by step.

    Every epoch has its own permutation and leaves out the last N mod B examples of it;
    an epoch's other random choices (see `ImageSet.for_epoch`) have a generator per
    epoch, too. `batch` is a pure function of (seed, step), so that a resumed run goes
    on with the same examples.

    Args:
        image_set: N examples.
        batch_size: B, at least 1 and at most N.
        seed: the seed of the permutations, not negative.

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
        # The latest epoch, its permutation and examples, made anew only when the epoch
        # changes.
        self._epoch: tuple[int, np.ndarray, Examples] = (-1, np.empty(0), image_set)

    def batch(self, step: int, rows: slice = slice(None)) -> dict[str, np.ndarray]:
        """Returns the batch of one step, or some rows of it.

        Args:
            step: the step, counted from 0 at the start of training, over all epochs.
            rows: the rows to return; nothing is read for the others.

        Returns:
            See `Examples.batch`.

        Raises:
            ValueError: `step` is negative.
        """
        if step < 0:
            raise ValueError(f"step {step} is negative")
        epoch, index = divmod(step, self.steps_per_epoch)
        cached, order, examples = self._epoch
        if cached != epoch:
            rng = np.random.default_rng((self._seed, epoch))
            order = rng.permutation(len(self._image_set))
            draws = np.random.default_rng((self._seed, epoch, 1))
            examples = self._image_set.for_epoch(draws)
            self._epoch = epoch, order, examples
        chosen = order[index * self._batch_size : (index + 1) * self._batch_size]
        return examples.batch(chosen[rows])


def eval_batches(
    image_set: ImageSet, batch_size: int
) -> Iterator[dict[str, np.ndarray]]:
    """Yields every example once, in order, in batches of one size.

    Args:
        image_set: N examples.
        batch_size: B, at least 1.

    Yields:
        The entries of `Examples.batch` and "mask" float32 [B], which is 1 for an
        example and 0 for the zeros that fill up the last batch.

    Raises:
        UserError: `batch_size` is less than 1.
    """
    if batch_size < 1:
        raise UserError(f"evaluation batch size {batch_size}; choose 1 or more")
    for start in range(0, len(image_set), batch_size):
        indices = np.arange(start, min(start + batch_size, len(image_set)))
        batch = image_set.batch(indices)
        batch["mask"] = np.ones(len(indices), np.float32)
        padding = batch_size - len(indices)
        yield {
            name: np.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1)) if padding else x
            for name, x in batch.items()
        }
