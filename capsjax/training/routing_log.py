"""What routing does while a CapsNet learns, as a row of metrics."""

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
    """The compiled function from variables and images to numbers of the routing.

    It runs on one device, and takes variables that are there or in host memory. Its
    images, a few dozen, are uint8 [B, H, W, C] and not augmented. It returns, for each
    routing iteration from 1, ``"logit_change_1"`` and ``"coupling_entropy_1"``; see
    `kernels.routing.Diagnosis`.

    Args:
        graphdef: of a model whose routing can be diagnosed.
        config: the run's.

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
