"""EM routing of matrix capsules, which fits a Gaussian to the votes for each capsule.

References:
    Hinton, Sabour and Frosst 2018, "Matrix capsules with EM routing".
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from capsjax.fields import field
from capsjax.losses.base import Scores
from capsjax.routings import base
from capsjax.routings.base import Capsules, Sizes, Transform
from kernels import routing


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(base.Config):
    """Config of `EM`; the defaults are the paper's algorithm."""

    name: ClassVar[str] = "em"
    activations: ClassVar[Scores] = "activations"
    needs_activations: ClassVar[bool] = True
    has_bias: ClassVar[bool] = False
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {},
        # google-research, capsule_em, in its convolutional layers.
        "authors_code": {
            "competition": "positions",
            "mean_momentum": 0.1,
            "cost_factor": 2.0,
        },
        # A. Gritzman, IBM/matrix-capsules-with-em-routing.
        "gritzman": {
            "variance_floor": 1e-9,
            "mass_epsilon": 1e-9,
            "cost_factor": 100.0,
            "mean_cost": True,
        },
        # Ours, for tens or hundreds of children, where the paper's cost hardly moves an
        # activation from 1/2, and Gritzman's may saturate it at the start.
        "few_children": {"cost_factor": 20.0, "mean_cost": True},
        # Hahn et al., SR-CapsNet: their baseline.
        "self_routing_code": {
            "competition": "types",
            "start": "ones",
            "variance_floor": 1e-12,
            "mass_epsilon": 1e-12,
        },
    }

    iterations: int = field(3, "Routing iterations r.", at_least=1)
    final_lambda: float = field(
        0.01,
        "Inverse temperature that lambda = final_lambda (1 - 0.95^t) approaches.",
        above=0,
    )
    competition: str = field(
        "parents",
        "Over what the shares of a child add up to 1.",
        choices=routing.em.COMPETITIONS,
    )
    start: str = field(
        "uniform", "Shares before the first iteration.", choices=routing.em.STARTS
    )
    variance_floor: float = field(5e-4, "Added to each variance.", above=0)
    mass_epsilon: float = field(
        1e-7, "Added to the mass of each output capsule.", above=0
    )
    mean_momentum: float = field(
        0.0,
        "Share of the previous iteration's mean in a mean; 0.1 in the authors' code.",
        at_least=0,
        at_most=1,
    )
    cost_factor: float = field(1.0, "Factor of the cost of the votes.", above=0)
    mean_cost: bool = field(
        False,
        "Divides the cost by the number of children of each type, C / J, so that it "
        "does not grow with the layer below.",
    )
    initial_beta_u: float = field(
        1.0,
        "beta_u at first. At 1, the cost is 0 where the votes' standard deviation is "
        "1/e, so that activations start near 1/2 for votes of usual sizes.",
    )
    beta_a_scale: float = field(
        5000.0,
        "Factor of the learned beta_a, as in the authors' code: lambda is so small "
        "that an optimizer's steps would otherwise have no effect.",
        above=0,
    )

    def build(self, sizes: Sizes, rngs: nnx.Rngs) -> "EM":
        """The plug-in's module."""
        return EM(self, sizes)

    def couplings_equal(self) -> Self:
        """One iteration, before which each child is shared alike."""
        return self.replace(iterations=1)


class EM(base.RoutingOfVotes):
    """Routes by the op `kernels.routing.em.route`.

    At first ``beta_a`` is 0 and ``beta_u`` such that the logit of an activation is
    ``-lambda * mass * sum_h (beta_u + log s_h)``, 0 for votes with a standard deviation
    s of 1/e. lambda is about 0.001, so that activations lie between 0.05 and 0.95 even
    with a mass of 50 and votes of a tenth, or three times, of that size.

    Attributes:
        beta_u: cost of describing a vote, [J] float32.
        beta_a: cost of not activating a capsule, in units of ``config.beta_a_scale``,
            [J] float32.
    """

    name: ClassVar[str] = Config.name
    needs_activations: ClassVar[bool] = True

    def __init__(self, config: Config, sizes: Sizes):
        J = sizes.out_capsules
        self.beta_u = nnx.Param(jnp.full(J, config.initial_beta_u, jnp.float32))
        self.beta_a = nnx.Param(jnp.zeros(J, jnp.float32))
        self.beta_a_scale = config.beta_a_scale
        self.iterations = config.iterations
        self.final_lambda = config.final_lambda
        self.competition = config.competition
        self.start = config.start
        self.variance_floor = config.variance_floor
        self.mass_epsilon = config.mass_epsilon
        self.mean_momentum = config.mean_momentum
        of_mean = J / sizes.in_capsules if config.mean_cost else 1.0
        self.cost_factor = config.cost_factor * of_mean

    def route(
        self,
        votes: Float[Array, "B *N C J Q"],
        children: Capsules,
        inputs: Capsules,
        transform: Transform,
        step: Int[Array, ""] | int,
    ) -> tuple[Float[Array, "B *N J Q"], Float[Array, "B *N J"]]:
        """Poses, and activations."""
        assert children.activations is not None
        return routing.em.route(
            votes,
            children.activations,
            self.beta_u[...],
            self.beta_a_scale * self.beta_a[...],
            num_iterations=self.iterations,
            windows=transform.windows,
            grid=inputs.grid if transform.windows is not None else (),
            final_lambda=self.final_lambda,
            competition=self.competition,
            start=self.start,
            variance_floor=self.variance_floor,
            mass_epsilon=self.mass_epsilon,
            mean_momentum=self.mean_momentum,
            cost_factor=self.cost_factor,
        )
