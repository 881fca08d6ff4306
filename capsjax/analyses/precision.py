"""How few bits weights need: the test error with rounded weights.

Weights are the parameters other than biases and the scales and shifts of
normalisations. They are rounded after training; the arithmetic is that of the run.

References:
    Saitoh 2016, "Deep Learning from Scratch", section 8.3.4, for half precision;
    Rastegari, Ordonez, Redmon and Farhadi 2016, "XNOR-Net", section 3.1, for signs
    times the mean of the absolute values.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from capsjax.analyses import intervals
from capsjax.analyses.intervals import Interval
from capsjax.data import Dataset
from capsjax.training import evaluate as evaluation
from capsjax.training import parallel, parameter_names
from capsjax.training.trained import TrainedModel


class Format(NamedTuple):
    """A way to store weights.

    Attributes:
        bits: bits of a weight.
        rounded: function of weights in groups of equal scale [G, n] to the values that
            are stored.
    """

    bits: int
    rounded: Callable[[Array], Array]


def _through(dtype: str) -> Callable[[Array], Array]:
    return lambda x: x.astype(dtype).astype(x.dtype)


def _eight_bits(x: Float[Array, "G n"]) -> Float[Array, "G n"]:
    scale = jnp.max(jnp.abs(x), axis=1, keepdims=True) / 127
    scale = jnp.where(scale > 0, scale, jnp.ones_like(scale))
    return jnp.clip(jnp.round(x / scale), -127, 127) * scale


def _one_bit(x: Float[Array, "G n"]) -> Float[Array, "G n"]:
    mean = jnp.mean(jnp.abs(x), axis=1, keepdims=True)
    return jnp.where(x < 0, -mean, mean)


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "float32": Format(32, _through("float32")),
        "bfloat16": Format(16, _through("bfloat16")),
        "float16": Format(16, _through("float16")),
        "8 bits": Format(8, _eight_bits),
        "1 bit": Format(1, _one_bit),
    }
)
"""From the most bits to the fewest. In the last two, each group has a scale of its own,
a float32: ``max |w| / 127``, and the mean of ``|w|``."""


class Found(NamedTuple):
    """A network with rounded weights.

    Attributes:
        format: name of the format.
        weights_mb: megabytes of the weights, with their scales and all else in float32.
        error: test error in percent, with its 95 % interval over images.
        changed: share of test images whose prediction differs from float32, in percent.
    """

    format: str
    weights_mb: float
    error: Interval
    changed: float


def in_groups(
    weights: Float[Array, "..."], *, per_matrix: bool = False
) -> Float[Array, "G n"]:
    """Weights that share a scale, in rows.

    Those of each output channel of a kernel [..., C_out]; or, in layers of capsules,
    each of the transformation matrices [..., Q, P].
    """
    if per_matrix:
        return weights.reshape(-1, weights.shape[-2] * weights.shape[-1])
    return weights.reshape(-1, weights.shape[-1]).T


def rounded(
    weights: Float[Array, "..."], name: str, *, per_matrix: bool = False
) -> Float[Array, "..."]:
    """Weights as a format stores them, in their own dtype.

    Args:
        weights: a kernel, or transformation matrices.
        name: name of the format.
        per_matrix: see `in_groups`.
    """
    found = FORMATS[name].rounded(in_groups(weights, per_matrix=per_matrix))
    if per_matrix:
        return found.reshape(weights.shape)
    return found.T.reshape(weights.shape)


def _are_matrices(path: str, value: Array) -> bool:
    return value.ndim >= 4 and path.rpartition(".")[2] != "kernel"


def measure(
    model: TrainedModel,
    data: Dataset,
    on_batch: Callable[[int], None] = lambda examples: None,
) -> list[Found]:
    """Tests a network in each of `FORMATS`.

    Args:
        model: the network.
        data: its data; images with one label each.
        on_batch: called after each batch with its number of examples.
    """
    params = model.variables.params
    devices = parallel.Devices(jax.devices(), model.config.parallelism)
    step = evaluation.make_eval_step(model.graphdef, model.config, devices)
    found: list[Found] = []
    reference: np.ndarray | None = None
    for name, form in FORMATS.items():

        def rounding(path: str, value: Array, name: str = name) -> Array:
            if not parameter_names.is_weight(path, value):
                return value
            per_matrix = _are_matrices(path, value)
            return rounded(jnp.asarray(value), name, per_matrix=per_matrix)

        changed = jax.tree.unflatten(
            jax.tree.structure(params),
            [rounding(*one) for one in parameter_names.by_path(params)],
        )
        variables = model.variables.replace(params=jax.device_get(changed))
        predictions = evaluation.evaluate(
            step,
            devices.replicate(variables),
            data.test,
            model.config.batch_size,
            devices,
            on_batch,
        ).predictions
        reference = predictions if reference is None else reference
        error = intervals.accuracy(predictions != data.test.labels)
        found.append(
            Found(
                name,
                _bytes(params, form) / 1e6,
                Interval(*(100 * x for x in error)),
                100 * float(np.mean(predictions != reference)),
            )
        )
    return found


def _bytes(params: nnx.State, form: Format) -> float:
    total = 0.0
    for path, value in parameter_names.by_path(params):
        is_weight = parameter_names.is_weight(path, value)
        total += value.size * (form.bits if is_weight else 32) / 8
        if is_weight and form.bits <= 8:
            total += 4 * len(in_groups(value, per_matrix=_are_matrices(path, value)))
    return total
