"""What routing does while a CapsNet learns, as a row of metrics."""

from collections.abc import Callable

import jax
from flax import nnx
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from capsjax.training import augment
from kernels.routing import Diagnosis

Diagnose = Callable[[nnx.State, ArrayLike], dict[str, float]]


def make_diagnose(graphdef: nnx.GraphDef, config: ConfigDict) -> Diagnose:
    """The compiled function from parameters and images to numbers of the routing.

    It runs on one device, and takes parameters that are there or in host memory. Its
    images, a few dozen, are uint8 [B, H, W, C] and not augmented. It returns, for each
    routing iteration from 1, ``"logit_change_1"`` and ``"coupling_entropy_1"``; see
    `kernels.routing.Diagnosis`.

    Args:
        graphdef: of a CapsNet.
        config: the run's.

    References:
        Sabour, Frosst and Hinton 2017, appendix A, figure A.1.
    """

    @jax.jit
    def diagnosis(params: nnx.State, images: jax.Array) -> Diagnosis:
        seen = augment.for_evaluation(images, config)
        params, seen = jax.tree.map(lambda x: x.astype(config.dtype), (params, seen))
        return nnx.merge(graphdef, params).diagnose_routing(seen)

    def diagnose(params: nnx.State, images: ArrayLike) -> dict[str, float]:
        found = jax.device_get(diagnosis(params, images))
        columns = {
            "logit_change": found.logit_changes,
            "coupling_entropy": found.coupling_entropies,
        }
        return {
            f"{name}_{iteration}": float(value)
            for name, values in columns.items()
            for iteration, value in enumerate(values, start=1)
        }

    return diagnose
