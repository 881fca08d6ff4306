"""The optimizer and its learning rate over the steps."""

from collections.abc import Callable

import optax

from capsjax.config import Optimizer
from capsjax.errors import UserError

OPTIMIZERS: dict[str, Callable[[optax.Schedule], optax.GradientTransformation]] = {
    # TensorFlow's defaults, which the paper uses: beta 0.9 and 0.999, epsilon 1e-8.
    "adam": optax.adam,
    "sgd": optax.sgd,
}


def schedule(config: Optimizer) -> optax.Schedule:
    """Returns the learning rate as a function of the step.

    ``max(learning_rate * decay_rate ** (step / decay_steps), min_learning_rate)``,
    continuous in the step.
    """
    least = min(config.min_learning_rate, config.learning_rate)
    return optax.exponential_decay(
        config.learning_rate,
        config.decay_steps,
        config.decay_rate,
        # For a rate that does not fall, optax would treat it as the maximum.
        end_value=least if config.decay_rate < 1 else None,
    )


def build(config: Optimizer) -> optax.GradientTransformation:
    """Returns the optimizer that ``config`` (a run's ``config.optimizer``) describes.

    Raises:
        UserError: unknown name.
    """
    if config.name not in OPTIMIZERS:
        raise UserError(
            f"unknown optimizer {config.name!r} in config.optimizer.name; "
            f"choose one of {', '.join(OPTIMIZERS)}"
        )
    return OPTIMIZERS[config.name](schedule(config))
