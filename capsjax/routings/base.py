"""The interface between capsule layers and routing algorithms.

A routing algorithm is a plug-in: a typed config, a line in `capsjax.routings.ROUTINGS`,
and a module that turns input capsules into output capsules and holds the algorithm's
parameters. It receives the transformation, not the votes: an algorithm with a fused op
passes poses and matrices to it, others call `Transform.votes`.
"""

import dataclasses
from typing import ClassVar, NamedTuple, Self

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from capsjax import fields
from capsjax.losses.base import Scores
from kernels import routing
from kernels.dtypes import accumulation_dtype


class Capsules(NamedTuple):
    """A layer of capsules.

    Attributes:
        poses: [B, I, P].
        activations: [B, I], float32 at least; None if the poses' lengths are used.
    """

    poses: Float[Array, "B I P"]
    activations: Float[Array, "B I"] | None = None


class Transform(NamedTuple):
    """The transformation from input poses to votes for output poses.

    Attributes:
        weights: transformation matrices, [I, J, Q, P].
        bias: added to the total inputs of the output capsules, [J, Q]; or None.
    """

    weights: Float[Array, "I J Q P"]
    bias: Float[Array, "J Q"] | None = None

    def votes(self, poses: Float[Array, "B I P"]) -> Float[Array, "B I J Q"]:
        """Computes the votes of every input capsule for every output capsule."""
        wide = accumulation_dtype(poses.dtype)
        votes = jnp.einsum(
            "ijqp,bip->bijq", self.weights, poses, preferred_element_type=wide
        )
        return votes.astype(poses.dtype)


class Sizes(NamedTuple):
    """Sizes of two layers of capsules.

    Attributes:
        in_capsules: I.
        in_dim: P, dimensions of the input poses.
        out_capsules: J.
        out_dim: Q, dimensions of the output poses.
    """

    in_capsules: int
    in_dim: int
    out_capsules: int
    out_dim: int


class Routing(nnx.Module):
    """Base class of the plug-ins."""

    def __call__(
        self, inputs: Capsules, transform: Transform, *, step: Int[Array, ""] | int
    ) -> Capsules:
        """Routes input capsules to output capsules.

        Args:
            inputs: capsules of the layer below.
            transform: transformation from their poses to votes.
            step: number of training steps taken so far, for annealing.

        Returns:
            Output capsules with their activations.
        """
        raise NotImplementedError(f"{type(self).__name__} does not route")

    def diagnose(self, inputs: Capsules, transform: Transform) -> routing.Diagnosis:
        """Diagnoses each iteration on a few dozen examples."""
        raise NotImplementedError(f"{type(self).__name__} cannot be diagnosed")


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(fields.Named):
    """Base class of routing configs, which declare what an algorithm offers.

    Attributes:
        activations: kind of the activations of the output capsules.
        diagnosable: whether `Routing.diagnose` works.
        implementations: names of interchangeable implementations, which the field
            ``implementation`` chooses from; empty if there is only one.
    """

    activations: ClassVar[Scores] = "lengths"
    diagnosable: ClassVar[bool] = False
    implementations: ClassVar[tuple[str, ...]] = ()

    @property
    def iterations(self) -> int | None:
        """Routing iterations, or None for an algorithm that has none."""
        return None

    @property
    def implementation(self) -> str | None:
        """The chosen one of ``implementations``, or None for the best."""
        return None

    @property
    def leaky(self) -> bool:
        """True if capsules can be routed to "none of the above"."""
        return False

    def build(self, sizes: Sizes, rngs: nnx.Rngs) -> Routing:
        """The plug-in's module."""
        raise NotImplementedError(f"{type(self).__name__} cannot be built")

    def implemented_by(self, implementation: str) -> Self:
        """The same routing by another of its implementations.

        Raises:
            ValueError: it does not have that implementation.
        """
        if implementation not in self.implementations:
            known = ", ".join(self.implementations) or "none to choose from"
            raise ValueError(
                f"{self.name} routing has no implementation {implementation!r}; "
                f"known: {known}"
            )
        return self.replace(implementation=implementation)

    def portable(self) -> Self:
        """The same routing in plain XLA operations, which run on every platform."""
        return self.replace()

    def columns(self) -> dict[str, str]:
        """Cells of this routing in rows of results."""
        return {
            "routing": self.name,
            "routing_iterations": str(self.iterations or ""),
            "routing_implementation": self.implementation or "default",
        }
