"""Networks that were not trained, as attacks see them."""

import jax
import numpy as np

from capsjax.analyses.robustness.victims import Victim
from capsjax.config import Config
from capsjax.losses import LOSSES
from capsjax.training import step as train_step
from capsjax.training.trained import TrainedModel

SHAPE = (8, 8, 1)


def fitting(model) -> Config:
    """A run's config of a model, with a loss that takes its scores."""
    config = Config(model=model)
    if model.scores not in config.loss.takes:
        config.loss = next(
            loss() for loss in LOSSES.values() if model.scores in loss.takes
        )
    return config


def untrained(config: Config, shape=SHAPE, noise=None) -> Victim:
    """A network with its initial parameters, and perhaps noise from a generator."""
    graphdef, state = train_step.create(config, shape, 10)
    variables = jax.device_get(state.variables)
    if noise is not None:
        params = jax.tree.map(
            lambda x: x + noise.normal(0, 0.1, x.shape).astype(np.float32),
            variables.params,
        )
        variables = variables.replace(params=params)
    trained = TrainedModel(config, graphdef, variables)
    return Victim(config.model.name, trained, shape, 10)
