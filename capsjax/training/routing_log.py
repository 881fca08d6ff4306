"""Diagnostics of routing while a CapsNet learns, as a row of metrics."""

from collections.abc import Callable

import jax
from flax import nnx
from jax.typing import ArrayLike

from capsjax.config import Config
from capsjax.models import Variables
from capsjax.training import augment
from kernels.routing import Diagnosis

Diagnose = Callable[[Variables, ArrayLike], dict[str, float]]


def make_diagnose(graphdef: nnx.GraphDef, config: Config) -> Diagnose:
    """Returns the compiled function from variables and images to routing diagnostics.

    It runs on one device, and takes variables from that device or host memory. The
    images, a few dozen, are uint8 [B, H, W, C] and not augmented. For each routing
    iteration from 1 it returns ``"logit_change_1"`` and ``"coupling_entropy_1"``; see
    `kernels.routing.Diagnosis`.

    Args:
        graphdef: structure of a model whose routing can be diagnosed.
        config: the run's config.

    References:
        Sabour, Frosst and Hinton 2017, appendix A, figure A.1.
    """

    @jax.jit
    def diagnosis(variables: Variables, images: jax.Array) -> Diagnosis:
        seen = augment.for_evaluation(images, config)
        params, seen = jax.tree.map(
            lambda x: x.astype(config.dtype), (variables.params, seen)
        )
        model = nnx.merge(graphdef, params, variables.model_state)
        return model.diagnose_routing(seen)

    def diagnose(variables: Variables, images: ArrayLike) -> dict[str, float]:
        found = jax.device_get(diagnosis(variables, images))
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
