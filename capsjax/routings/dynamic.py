"""Dynamic routing (routing-by-agreement), which refines coupling in iterations.

References:
    Sabour, Frosst and Hinton 2017, "Dynamic Routing Between Capsules", section 2.
"""

import dataclasses
import functools
from typing import ClassVar, Self

from flax import nnx
from jaxtyping import Array, Float, Int

from capsjax.fields import field
from capsjax.losses.base import Scores
from capsjax.routings import base
from capsjax.routings.base import Capsules, Sizes, Transform
from kernels import routing


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(base.Config):
    """Config of `Dynamic`."""

    name: ClassVar[str] = "dynamic"
    activations: ClassVar[Scores] = "lengths"
    diagnosable: ClassVar[bool] = True
    has_couplings: ClassVar[bool] = True
    implementations: ClassVar[tuple[str, ...]] = tuple(routing.IMPLEMENTATIONS)

    iterations: int = field(3, "Routing iterations r.", at_least=1)
    implementation: str | None = field(
        None,
        "Implementation of the op, or none for the best that the device supports.",
        choices=(None, *routing.IMPLEMENTATIONS),
    )
    leaky: bool = field(False, "Lets capsules be routed to 'none of the above'.")
    stop_gradient: bool = field(
        False, "Holds the last coupling coefficients fixed in the gradient."
    )

    def build(self, sizes: Sizes, rngs: nnx.Rngs) -> "Dynamic":
        """The plug-in's module; it has no parameters."""
        return Dynamic(self)

    def portable(self) -> Self:
        """Routing without fused kernels."""
        return self.replace(implementation="xla")

    def couplings_followed(self) -> Self:
        """The coupling coefficients of all iterations are part of the gradient."""
        return self.replace(stop_gradient=False)

    def couplings_held(self) -> Self:
        """The last coupling coefficients are constants of the gradient."""
        return self.replace(stop_gradient=True)

    def couplings_equal(self) -> Self:
        """One iteration, whose coupling coefficients do not depend on the votes."""
        return self.replace(iterations=1)


class Dynamic(base.Routing):
    """Hands poses and matrices to the op `kernels.routing.route`; forms no votes."""

    def __init__(self, config: Config):
        self.iterations = config.iterations
        self.implementation = config.implementation
        self.leaky = config.leaky
        self.stop_gradient = config.stop_gradient

    def __call__(
        self,
        inputs: Capsules,
        transform: Transform,
        *,
        step: Int[Array, ""] | int = 0,
        train: bool = False,
    ) -> Capsules:
        """Output capsules, whose lengths are their activations."""
        op = functools.partial(
            routing.route,
            num_iterations=self.iterations,
            leaky=self.leaky,
            stop_gradient=self.stop_gradient,
            implementation=self.implementation,
        )
        return base.route_vectors(op, inputs, transform)

    def couplings(
        self, inputs: Capsules, transform: Transform
    ) -> Float[Array, "n C J"]:
        """The coupling coefficients of the last iteration."""
        return routing.dynamic.couplings(
            *transform.vectors(transform.children(inputs)),
            num_iterations=self.iterations,
            leaky=self.leaky,
        )

    def diagnose(self, inputs: Capsules, transform: Transform) -> routing.Diagnosis:
        """Diagnoses each routing iteration on a few dozen examples."""
        return routing.diagnose(
            *transform.vectors(transform.children(inputs)),
            num_iterations=self.iterations,
            leaky=self.leaky,
        )
