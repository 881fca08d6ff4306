"""The optimizer, and its learning rate over the steps and parameters."""

import contextlib
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from capsjax.config import Optimizer
from capsjax.errors import UserError
from capsjax.training import parameter_names

OPTIMIZERS: dict[
    str, Callable[[optax.Schedule, Optimizer], optax.GradientTransformation]
] = {
    # TensorFlow's defaults, which the paper uses: beta 0.9 and 0.999, epsilon 1e-8.
    "adam": lambda rate, config: optax.adam(rate),
    "adamw": lambda rate, config: optax.adamw(
        rate, weight_decay=config.weight_decay, mask=_decays
    ),
    "sgd": lambda rate, config: optax.sgd(rate, config.momentum or None),
    "nesterov": lambda rate, config: optax.sgd(
        rate, config.momentum or None, nesterov=True
    ),
}


def schedule(config: Optimizer) -> optax.Schedule:
    """Returns the learning rate as a function of the step.

    Exponential, continuous in the step:
    ``max(learning_rate * decay_rate ** (step / decay_steps), min_learning_rate)``.
    Cosine: ``min + (learning_rate - min) (1 + cos(pi step / decay_steps)) / 2`` until
    ``decay_steps``. Linear: a straight line to the same point. Steps: ``learning_rate *
    decay_rate ** (boundaries passed)``. Warm-up multiplies it by
    ``(step + 1) / warmup_steps`` while that is less than 1.
    """
    least = min(config.min_learning_rate, config.learning_rate)
    rate: optax.Schedule
    if config.schedule == "cosine":
        share = least / config.learning_rate if config.learning_rate else 0.0
        rate = optax.cosine_decay_schedule(
            config.learning_rate, config.decay_steps, alpha=share
        )
    elif config.schedule == "linear":
        rate = optax.linear_schedule(config.learning_rate, least, config.decay_steps)
    elif config.schedule == "steps":
        rate = optax.piecewise_constant_schedule(
            config.learning_rate, dict.fromkeys(config.boundaries, config.decay_rate)
        )
    else:
        rate = optax.exponential_decay(
            config.learning_rate,
            config.decay_steps,
            config.decay_rate,
            # For a rate that does not fall, optax would treat it as the maximum.
            end_value=least if config.decay_rate < 1 else None,
        )
    if not config.warmup_steps:
        return rate
    return lambda step: rate(step) * jnp.minimum((step + 1) / config.warmup_steps, 1.0)


def build(config: Optimizer) -> optax.GradientTransformation:
    """Returns the optimizer that ``config`` (a run's ``config.optimizer``) describes.

    Raises:
        UserError: unknown name, or fields that it does not have.
    """
    if config.name not in OPTIMIZERS:
        raise UserError(
            f"unknown optimizer {config.name!r} in config.optimizer.name; "
            f"choose one of {', '.join(OPTIMIZERS)}"
        )
    if config.momentum and config.name not in ("sgd", "nesterov"):
        raise UserError(
            f"config.optimizer.momentum is for sgd and nesterov, not {config.name!r}; "
            "leave it out, or set config.optimizer.name"
        )
    if bool(config.boundaries) != (config.schedule == "steps"):
        raise UserError(
            f"config.optimizer.schedule is {config.schedule!r} and config.optimizer."
            f"boundaries {config.boundaries}; the schedule steps needs boundaries, and "
            "no other has them"
        )
    if config.average_decay == 1:
        raise UserError(
            "config.optimizer.average_decay is 1, so that the averages would stay the "
            "initial parameters; it must be less"
        )
    tx = OPTIMIZERS[config.name](schedule(config), config)
    if config.weight_decay and config.name != "adamw":
        decay = optax.add_decayed_weights(config.weight_decay, mask=_decays)
        tx = optax.chain(decay, tx)
    if config.rates:
        tx = optax.chain(tx, _scale_by_layer(config.rates))
    return tx


def factors(params: nnx.State, rates: tuple[str, ...]) -> nnx.State:
    """The factor of the learning rate of each parameter.

    Args:
        params: the model's parameters.
        rates: ``PATTERN=FACTOR`` each, see `parameter_names.matches`; the last one that
            matches counts.

    Raises:
        UserError: a pattern matches nothing, or a factor is not a number.
    """
    pairs = [_pair(rate) for rate in rates]
    paths = [path for path, _ in parameter_names.by_path(params)]
    for pattern, _ in pairs:
        if not any(parameter_names.matches(path, pattern) for path in paths):
            raise UserError(
                f"config.optimizer.rates has {pattern!r}, which is no parameter of "
                f"this network; it has {', '.join(parameter_names.layers(paths))}"
            )

    def factor(path: str) -> float:
        found = [
            factor
            for pattern, factor in pairs
            if parameter_names.matches(path, pattern)
        ]
        return found[-1] if found else 1.0

    return jax.tree.unflatten(
        jax.tree.structure(params), [factor(path) for path in paths]
    )


def averaged(average: Any, params: Any, decay: float) -> Any:
    """The moving average of parameters after a step with new ones."""
    return jax.tree.map(
        lambda old, new: old * decay + new * (1 - decay), average, params
    )


def _scale_by_layer(rates: tuple[str, ...]) -> optax.GradientTransformation:
    def scale(updates: nnx.State, params: nnx.State | None) -> nnx.State:
        return jax.tree.map(jnp.multiply, updates, factors(updates, rates))

    return optax.stateless(scale)


def _decays(params: nnx.State) -> nnx.State:
    return jax.tree.unflatten(
        jax.tree.structure(params),
        [parameter_names.is_weight(*one) for one in parameter_names.by_path(params)],
    )


def _pair(rate: str) -> tuple[str, float]:
    pattern, _, number = rate.partition("=")
    with contextlib.suppress(ValueError):
        if 0 <= (factor := float(number)) < math.inf:
            return pattern, factor
    raise UserError(
        f"config.optimizer.rates has {rate!r}; write PATTERN=FACTOR with a factor of "
        "at least 0, such as logits=10"
    )
