"""Batches for training and evaluation."""

import numpy as np
import pytest

from capsjax import data
from capsjax.errors import UserError
from tests.data.made import numbered, numbers


def test_an_epoch_uses_every_example_at_most_once():
    batches = data.TrainBatches(numbered(11), 4, seed=0)
    assert batches.steps_per_epoch == 2
    epochs = []
    for epoch in range(20):
        steps = range(2 * epoch, 2 * epoch + 2)
        seen = [x for s in steps for x in numbers(batches.batch(s)["image"])]
        assert len(set(seen)) == len(seen) == 8
        epochs.append(tuple(seen))
    assert len(set(epochs)) == 20
    # Every example is left out of some epochs, none of all.
    assert {x for epoch in epochs for x in epoch} == set(range(11))


def test_batches_are_a_function_of_seed_and_step():
    whole = numbered(11)
    forward = data.TrainBatches(whole, 4, seed=5)
    wanted = [forward.batch(step) for step in range(12)]
    resumed = data.TrainBatches(whole, 4, seed=5)
    for step in (7, 11, 0, 6, 1):
        found = resumed.batch(step)
        np.testing.assert_array_equal(found["image"], wanted[step]["image"])
        np.testing.assert_array_equal(found["label"], wanted[step]["label"])
    # Step 7 is the second of the fourth epoch.
    order = np.random.default_rng((5, 3)).permutation(11)
    assert numbers(wanted[7]["image"]) == order[4:8].tolist()
    other = data.TrainBatches(whole, 4, seed=6)
    assert numbers(other.batch(0)["image"]) != numbers(wanted[0]["image"])


def test_train_batches_have_the_stored_types():
    batch = data.TrainBatches(numbered(11), 4, seed=0).batch(0)
    assert batch["image"].shape == (4, 1, 1, 1)
    assert batch["image"].dtype == np.uint8
    assert batch["label"].dtype == np.int32
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0] % 2, batch["label"])
    batch["image"][:] = 0  # a copy: the data set stays as it is.
    again = data.TrainBatches(numbered(11), 4, seed=0).batch(0)
    assert again["image"].any()


@pytest.mark.parametrize("size", [0, 12, -1])
def test_train_batch_size_out_of_range(size):
    with pytest.raises(UserError, match=f"batch size {size} with 11 training examples"):
        data.TrainBatches(numbered(11), size, seed=0)


def test_train_batches_other_bad_input():
    with pytest.raises(UserError, match="seed -1 is negative"):
        data.TrainBatches(numbered(11), 4, seed=-1)
    with pytest.raises(ValueError, match="step -1 is negative"):
        data.TrainBatches(numbered(11), 4, seed=0).batch(-1)


@pytest.mark.parametrize(("n", "num_batches"), [(0, 0), (3, 1), (4, 1), (8, 2), (9, 3)])
def test_eval_batches_hold_every_example_once(n, num_batches):
    whole = numbered(n)
    batches = list(data.eval_batches(whole, 4))
    assert len(batches) == num_batches
    seen = []
    for batch in batches:
        assert batch["image"].shape == (4, 1, 1, 1)
        assert batch["image"].dtype == np.uint8
        assert batch["label"].dtype == np.int32
        assert batch["mask"].dtype == np.float32
        real = batch["mask"] == 1
        assert not batch["mask"][~real].any()
        assert not batch["image"][~real].any()
        assert not batch["label"][~real].any()
        np.testing.assert_array_equal(
            batch["label"][real], batch["image"][real][:, 0, 0, 0] % 2
        )
        seen += numbers(batch["image"][real])
    assert seen == list(range(n))


def test_eval_batch_size_out_of_range():
    with pytest.raises(UserError, match="evaluation batch size 0"):
        next(data.eval_batches(numbered(3), 0))
