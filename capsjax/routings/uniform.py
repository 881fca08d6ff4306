"""Uniform routing with equal coupling coefficients, the control experiment.

References:
    Paik, Kwak and Kim 2019, "Capsule Networks Need an Improved Routing Algorithm".
"""

import dataclasses
import functools
from typing import ClassVar

from flax import nnx
from jaxtyping import Array, Int

from capsjax.fields import field
from capsjax.routings import base
from capsjax.routings.base import Capsules, Sizes, Transform
from kernels import routing


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(base.Config):
    """Config of `Uniform`."""

    name: ClassVar[str] = "uniform"

    leaky: bool = field(False, "Counts 'none of the above' as one more capsule.")

    def build(self, sizes: Sizes, rngs: nnx.Rngs) -> "Uniform":
        """The plug-in's module; it has no parameters."""
        return Uniform(self)


class Uniform(base.Routing):
    """Coupling coefficients 1/J, by the op `kernels.routing.uniform.route`."""

    def __init__(self, config: Config):
        self.leaky = config.leaky

    def __call__(
        self,
        inputs: Capsules,
        transform: Transform,
        *,
        step: Int[Array, ""] | int = 0,
        train: bool = False,
    ) -> Capsules:
        """Output capsules, whose lengths are their activations."""
        op = functools.partial(routing.uniform.route, leaky=self.leaky)
        return base.route_vectors(op, inputs, transform)
