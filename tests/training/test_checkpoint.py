"""Checkpoints: what is kept, and what is refused.

A damaged one is in test_launchers.py: Orbax leaves reads behind that end noisily.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax.errors import UserError
from capsjax.runs.folder import RunFolder
from capsjax.training import step as train_step
from capsjax.training.checkpoint import Checkpoints, Record


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


def test_a_checkpoint_of_steps_that_are_taken_again_gives_way(tmp_path, state):
    """The best of step 9 is left from before a kill; now step 6 is the best."""
    with Checkpoints(RunFolder(tmp_path)) as checkpoints:
        checkpoints.save("best", at_step(state, 9), Record(best_step=9))
    with Checkpoints(RunFolder(tmp_path)) as checkpoints:
        checkpoints.save("best", at_step(state, 6), Record(best_step=6))
        restored, record = checkpoints.restore(state, "best")
    assert restored.step == record.best_step == 6


def test_no_checkpoint_is_an_error(tmp_path, state):
    with (
        Checkpoints(RunFolder(tmp_path)) as checkpoints,
        pytest.raises(UserError, match="no checkpoint"),
    ):
        checkpoints.restore(state)


def test_a_foreign_checkpoint_is_refused(tmp_path, state, tiny_config):
    with Checkpoints(RunFolder(tmp_path)) as checkpoints:
        checkpoints.save("last", at_step(state, 1), Record())
    tiny_config.model.routing_bias = not tiny_config.model.routing_bias
    other = train_step.create(tiny_config, (8, 8, 1), 10)[1]
    with (
        Checkpoints(RunFolder(tmp_path)) as checkpoints,
        pytest.raises(UserError, match="belongs to another model"),
    ):
        checkpoints.restore(other)
