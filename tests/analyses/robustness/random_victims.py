"""Networks that were not trained, as attacks see them."""

import jax

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


def untrained(config: Config, shape=SHAPE) -> Victim:
    """A network with its initial parameters."""
    graphdef, state = train_step.create(config, shape, 10)
    trained = TrainedModel(config, graphdef, jax.device_get(state.variables))
    return Victim(config.model.name, trained, shape, 10)
