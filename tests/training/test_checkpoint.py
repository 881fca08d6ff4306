"""Checkpoints: what is kept, and what is refused.

A damaged one is in test_launchers.py: Orbax leaves reads behind that end noisily.
"""

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
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


def test_a_save_that_fails_removes_nothing(tmp_path, state, monkeypatch):
    """Neither older checkpoints nor newer ones, which a good save replaces."""

    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    with Checkpoints(RunFolder(tmp_path)) as checkpoints:
        checkpoints.save("best", at_step(state, 9), Record(best_step=9))
    with Checkpoints(RunFolder(tmp_path)) as checkpoints:
        with monkeypatch.context() as patch:
            patch.setattr(ocp.CheckpointManager, "save", fail)
            with pytest.raises(UserError, match=r"step 6 .*No space.* 9 is unchanged"):
                checkpoints.save("best", at_step(state, 6), Record(best_step=6))
        assert checkpoints.restore(state, "best")[1].best_step == 9
        checkpoints.save("best", at_step(state, 6), Record(best_step=6))
        assert checkpoints.restore(state, "best")[1].best_step == 6
    assert [path.name for path in (tmp_path / "checkpoints/best").iterdir()] == ["6"]


def test_damaged_checkpoints_stay_until_a_save_replaces_them(tmp_path, state, capsys):
    folder = RunFolder(tmp_path)
    with Checkpoints(folder) as checkpoints:
        for step in (1, 2):
            checkpoints.save("last", at_step(state, step), Record(seconds=step))
    (tmp_path / "checkpoints/last/2/record/metadata").write_text("")
    with Checkpoints(folder) as checkpoints:
        resumed = checkpoints.resume(state)
        assert resumed is not None
        assert resumed[1].seconds == 1
        assert "last/2 is damaged" in capsys.readouterr().err
        assert checkpoints.latest_step() == 1
        assert (tmp_path / "checkpoints/last/2").exists()
        checkpoints.save("last", at_step(state, 2), Record(seconds=3))
        assert checkpoints.restore(state)[1].seconds == 3
    assert {path.name for path in (tmp_path / "checkpoints/last").iterdir()} == {
        "1",
        "2",
    }


def test_a_restore_returns_the_shapes_that_were_asked_for(tmp_path, state, tiny_config):
    """Orbax itself returns the shapes that were stored."""
    with Checkpoints(RunFolder(tmp_path)) as checkpoints:
        checkpoints.save("last", at_step(state, 1), Record())
    wider = train_step.create(tiny_config, (8, 8, 3), 10)[1]
    with (
        Checkpoints(RunFolder(tmp_path)) as checkpoints,
        pytest.raises(UserError, match=r"an array float32\[.*in place of float32\["),
    ):
        checkpoints.restore(wider)
