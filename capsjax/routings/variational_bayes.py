"""Variational Bayes routing, a mixture of Gaussians with priors on its parameters.

References:
    Ribeiro, Leontidis and Kollias 2020, "Capsule Routing via Variational Bayes".
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from capsjax.fields import field
from capsjax.losses.base import Scores
from capsjax.normalization import BatchNorm
from capsjax.routings import base
from capsjax.routings.base import Capsules, Sizes, Transform
from kernels import routing


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(base.Config):
    """Config of `VariationalBayes`."""

    name: ClassVar[str] = "variational_bayes"
    activations: ClassVar[Scores] = "activations"
    needs_activations: ClassVar[bool] = True
    has_bias: ClassVar[bool] = False
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {},
        "authors_code": {"least_likelihood": 1e-11},
    }

    iterations: int = field(3, "Routing iterations r.", at_least=1)
    least_likelihood: float = field(
        0.0,
        "Children whose total likelihood is below this drop out; 1e-11 in the authors' "
        "code, 0 for none.",
        at_least=0,
    )
    norm_momentum: float = field(
        0.9, "Share of the old running averages in the new.", at_least=0, at_most=1
    )

    def build(self, sizes: Sizes, rngs: nnx.Rngs) -> "VariationalBayes":
        """The plug-in's module."""
        return VariationalBayes(self, sizes, rngs)

    def couplings_equal(self) -> Self:
        """One iteration, before which each child is shared alike."""
        return self.replace(iterations=1)


class VariationalBayes(base.RoutingOfVotes):
    """Routes by the op `kernels.routing.variational_bayes.route`.

    Scores become activations by batch normalisation and the logistic function, and
    means become poses by batch normalisation; both are normalised for each type of
    capsule, over examples, positions and, for poses, dimensions.

    Attributes:
        beta_u: cost of activating a capsule, [J] float32, zero at first.
        beta_a: cost of not activating it, [J] float32, zero at first. Like ``beta_u``
            it has no gradient in training, where batch normalisation subtracts it.
        score_norm: batch normalisation of scores, without parameters.
        pose_norm: batch normalisation of poses, without parameters.
    """

    name: ClassVar[str] = Config.name
    needs_activations: ClassVar[bool] = True

    def __init__(self, config: Config, sizes: Sizes, rngs: nnx.Rngs):
        J = sizes.out_capsules
        self.beta_u = nnx.Param(jnp.zeros(J, jnp.float32))
        self.beta_a = nnx.Param(jnp.zeros(J, jnp.float32))
        self.score_norm, self.pose_norm = (
            BatchNorm(J, momentum=config.norm_momentum, affine=False, rngs=rngs)
            for _ in range(2)
        )
        self.iterations = config.iterations
        self.least_likelihood = config.least_likelihood

    def route(
        self,
        votes: Float[Array, "B *N C J Q"],
        children: Capsules,
        inputs: Capsules,
        transform: Transform,
        step: Int[Array, ""] | int,
    ) -> tuple[Float[Array, "B *N J Q"], Float[Array, "B *N J"]]:
        """Means and scores."""
        assert children.activations is not None
        return routing.variational_bayes.route(
            votes,
            children.activations,
            self.beta_u[...],
            self.beta_a[...],
            num_iterations=self.iterations,
            windows=transform.windows,
            grid=inputs.grid if transform.windows is not None else (),
            least_likelihood=self.least_likelihood,
        )

    def finish(
        self,
        poses: Float[Array, "B *N J Q"],
        activations: Float[Array, "B *N J"] | None,
        *,
        train: bool,
    ) -> tuple[Float[Array, "B *N J Q"], Float[Array, "B *N J"]]:
        """Poses and activations from means and scores."""
        assert activations is not None
        types_last = jnp.swapaxes(poses, -1, -2)
        poses = jnp.swapaxes(self.pose_norm(types_last, train=train), -1, -2)
        return poses, jax.nn.sigmoid(self.score_norm(activations, train=train))
