"""Single train steps, and runs that have been cut off."""

import pathlib
import shutil
from typing import Any

import jax

from capsjax.config import Config
from capsjax.data import Dataset, TrainBatches
from capsjax.training import step as train_step
from capsjax.training.parallel import Devices

ONE = Devices(jax.devices()[:1])


def take_steps(
    config: Config, dataset: Dataset, count: int, devices: Devices = ONE
) -> tuple[list[dict[str, Any]], list[train_step.TrainState]]:
    """The metrics of each step, and the states before the first and after each."""
    batches = TrainBatches(dataset.train, config.batch_size, config.seed)
    graphdef, state = train_step.create(config, dataset.image_shape, 10)
    metrics, states = [], [jax.device_get(state)]
    step = train_step.make_train_step(graphdef, config, devices)
    rows = devices.rows(config.batch_size)
    state = devices.replicate(state)
    for index in range(count):
        state, row = step(state, devices.shard(batches.batch(index, rows)))
        metrics.append(jax.device_get(row))
        states.append(jax.device_get(state))
    return metrics, states


def back_to_step(step: int, run: pathlib.Path, copy: pathlib.Path) -> None:
    """Copies a run's folder as it is if the run is killed before the next checkpoint.

    Metrics of later steps are in it, and perhaps a later best state.
    """
    shutil.copytree(run, copy)
    (copy / "result.json").unlink()
    states = {int(path.name): path for path in copy.glob("checkpoints/last/[0-9]*")}
    assert step in states
    for later in states.keys() - {step}:
        shutil.rmtree(states[later])
