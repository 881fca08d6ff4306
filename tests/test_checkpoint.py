"""Checkpoints: what is kept, and what happens to damaged and foreign ones."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax import train_step
from capsjax.checkpoint import Checkpoints, Record
from capsjax.errors import UserError
from capsjax.run_folder import RunFolder


@pytest.fixture
def state(tiny_config) -> train_step.TrainState:
    return train_step.create(tiny_config, (8, 8, 1), 10)[1]


def at_step(state, step):
    return state.replace(step=jnp.asarray(step, jnp.int32))


def test_state_and_record_come_back_exactly(tmp_path, state):
    record = Record(seconds=1.5, best_accuracy=0.25, best_step=7)
    with Checkpoints(RunFolder(tmp_path)) as checkpoints:
        checkpoints.save("last", at_step(state, 7), record)
    template = jax.tree.map(jnp.zeros_like, state)
    with Checkpoints(RunFolder(tmp_path)) as checkpoints:
        restored, found = checkpoints.restore(template)
    assert found == record
    assert restored.step == 7
    jax.tree.map(np.testing.assert_array_equal, restored.params, state.params)
    jax.tree.map(np.testing.assert_array_equal, restored.opt_state, state.opt_state)


def test_the_last_two_and_the_newest_best_are_kept(tmp_path, state):
    with Checkpoints(RunFolder(tmp_path)) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save("last", at_step(state, step), Record())
        for step in (1, 3):
            checkpoints.save("best", at_step(state, step), Record())
    kept = {
        which: sorted(
            path.name for path in (tmp_path / "checkpoints" / which).iterdir()
        )
        for which in ("last", "best")
    }
    assert kept == {"last": ["2", "3"], "best": ["3"]}


def test_no_checkpoint_is_an_error(tmp_path, state):
    with (
        Checkpoints(RunFolder(tmp_path)) as checkpoints,
        pytest.raises(UserError, match="no checkpoint"),
    ):
        checkpoints.restore(state)


def test_a_foreign_checkpoint_is_refused(tmp_path, state, tiny_config):
    with Checkpoints(RunFolder(tmp_path)) as checkpoints:
        checkpoints.save("last", at_step(state, 1), Record())
    tiny_config.model.conv1_channels += 1
    other = train_step.create(tiny_config, (8, 8, 1), 10)[1]
    with (
        Checkpoints(RunFolder(tmp_path)) as checkpoints,
        pytest.raises(UserError, match="belongs to another model"),
    ):
        checkpoints.restore(other)


# Orbax abandons its other reads when one fails; Python says so when it finds them.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_checkpoint_is_refused(tmp_path, state):
    with Checkpoints(RunFolder(tmp_path)) as checkpoints:
        checkpoints.save("last", at_step(state, 1), Record())
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    with (
        Checkpoints(RunFolder(tmp_path)) as checkpoints,
        pytest.raises(UserError, match="damaged"),
    ):
        checkpoints.restore(state)
    gc.collect()
