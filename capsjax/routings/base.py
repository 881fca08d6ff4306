"""The interface between capsule layers and routing algorithms.

A routing algorithm is a plug-in: a typed config, a line in `capsjax.routings.ROUTINGS`,
and a module that turns input capsules into output capsules and holds the algorithm's
parameters. It receives the transformation, not the votes: an algorithm with a fused op
takes poses and matrices (`Transform.vectors`), others take the votes, for a block of
examples at a time (`RoutingOfVotes`).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar, NamedTuple, Self

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from capsjax import fields
from capsjax.errors import NotApplicableError
from capsjax.losses.base import Scores
from kernels import routing
from kernels.dtypes import at_least_float32
from kernels.routing import blocks
from kernels.routing.votes import Windows, matrix_votes, vector_votes


class Capsules(NamedTuple):
    """A layer of capsules, each with a pose and perhaps an activation.

    The rank of ``poses`` says whether they are vectors or square matrices, and whether
    the capsules lie on a grid.

    Attributes:
        poses: [B, I, P], [B, I, d, d], [B, H, W, I, P] or [B, H, W, I, d, d].
        activations: probabilities that the capsules' entities are present, [B, I] or
            [B, H, W, I], float32 at least; None in layers that have none.
    """

    poses: Float[Array, "B ..."]
    activations: Float[Array, "B *N I"] | None = None

    @property
    def are_matrices(self) -> bool:
        """Whether poses are matrices."""
        return self.poses.ndim in (4, 6)

    @property
    def grid(self) -> tuple[int, ...]:
        """(H, W), or () for capsules without places."""
        return self.poses.shape[1:3] if self.poses.ndim > 4 else ()


class Transform(flax.struct.PyTreeNode):
    """The transformation from input poses to votes for output poses.

    C is the number of children of an output capsule: all I capsules below; or with
    ``windows`` the K * K * I capsules in a window, in the order (row, column, capsule).

    Attributes:
        weights: transformation matrices, [C, J, Q, P] for vectors or [C, J, d, d].
        bias: added to the total inputs of the output capsules, [J, Q]; or None.
        offsets: added to each child's votes, such as its coordinates, [C, Q]; or None.
        windows: the windows of a convolutional layer, or None.
    """

    weights: Float[Array, "C J *transform"]
    bias: Float[Array, "J Q"] | None = None
    offsets: Float[Array, "C Q"] | None = None
    windows: Windows | None = flax.struct.field(pytree_node=False, default=None)

    def children(self, inputs: Capsules) -> Capsules:
        """The children of each output position: [B, C], or [B, h, w, C] in windows.

        Raises:
            ValueError: their number or their poses do not suit the weights.
        """

        def gathered(x: Array) -> Array:
            if self.windows is not None:
                return self.windows.children(x)
            return x.reshape(x.shape[0], -1, *x.shape[2 + len(inputs.grid) :])

        found = jax.tree.map(gathered, inputs)
        C, P = self.weights.shape[0], self.weights.shape[-1]
        pose = (P, P) if inputs.are_matrices else (P,)
        if found.poses.shape[1 + len(found.grid) :] != (C, *pose):
            raise ValueError(
                f"poses {inputs.poses.shape} do not suit transformation matrices "
                f"{self.weights.shape} of {C} capsules"
            )
        return found

    def votes(self, children: Capsules) -> Float[Array, "B *N C J Q"]:
        """The votes of children from `children` for every output capsule."""
        if children.are_matrices:
            votes = matrix_votes(children.poses, self.weights)
        else:
            votes = vector_votes(children.poses, self.weights)
        if self.offsets is not None:
            offsets = self.offsets.astype(votes.dtype)[:, None]
            votes += jnp.expand_dims(offsets, range(votes.ndim - 3))
        return votes

    def vectors(
        self, children: Capsules
    ) -> tuple[
        Float[Array, "n C P"], Float[Array, "C J Q P"], Float[Array, "J Q"] | None
    ]:
        """Poses, weights and bias of equal votes that are products with vectors.

        Each position is an example of its own. A product of matrices becomes one of a
        vector with a larger matrix, and offsets the product with one more dimension.
        """
        poses, weights = children.poses, self.weights
        if children.are_matrices:
            C, J, d, _ = weights.shape
            poses = poses.reshape(*poses.shape[:-2], d * d)
            # (M W)[a, f] = sum over (b, e) of [a = b] W[e, f] M[b, e].
            eye = jnp.eye(d, dtype=weights.dtype)
            weights = jnp.einsum("ab,cjef->cjafbe", eye, weights)
            weights = weights.reshape(C, J, d * d, d * d)
        poses = poses.reshape(-1, *poses.shape[-2:])
        if self.offsets is not None:
            ones = jnp.ones((*poses.shape[:-1], 1), poses.dtype)
            poses = jnp.concatenate([poses, ones], axis=-1)
            column = self.offsets.astype(weights.dtype)[:, None, :, None]
            column = jnp.broadcast_to(column, (*weights.shape[:3], 1))
            weights = jnp.concatenate([weights, column], axis=-1)
        return poses, weights, self.bias

    def votes_bytes(self, inputs: Capsules) -> int:
        """Bytes of the votes of one example."""
        positions = 1
        if self.windows is not None:
            positions = math.prod(map(self.windows.size, inputs.grid))
        C, J, Q, P = self.weights.shape
        if inputs.are_matrices:
            Q *= P
        return positions * C * J * Q * inputs.poses.dtype.itemsize


class Sizes(NamedTuple):
    """Sizes of two layers of capsules.

    Attributes:
        in_capsules: children C of an output capsule.
        in_dim: P, dimensions of the input poses.
        out_capsules: J.
        out_dim: Q, dimensions of the output poses.
    """

    in_capsules: int
    in_dim: int
    out_capsules: int
    out_dim: int


class Routing(nnx.Module):
    """Base class of the plug-ins.

    Attributes:
        name: the algorithm's name, for errors.
        needs_activations: whether the input capsules need activations.
    """

    name: ClassVar[str] = ""
    needs_activations: ClassVar[bool] = False

    def __call__(
        self,
        inputs: Capsules,
        transform: Transform,
        *,
        step: Int[Array, ""] | int = 0,
        train: bool = False,
    ) -> Capsules:
        """Routes input capsules to output capsules.

        Args:
            inputs: capsules of the layer below.
            transform: transformation from their poses to votes.
            step: number of training steps taken so far, for annealing.
            train: whether this is part of a train step.

        Returns:
            Output capsules, whose poses are matrices if those of the inputs are, with
            activations if the config declares any.

        Raises:
            ValueError: the algorithm needs activations, and the inputs have none; or
                poses do not suit the transformation.
        """
        raise NotImplementedError(f"{type(self).__name__} does not route")

    def activations_only(self, inputs: Capsules) -> Float[Array, "B J"]:
        """Activations of output capsules that all input capsules are children of.

        They need no votes: for algorithms whose config says so.

        Args:
            inputs: capsules of the layer below.

        Raises:
            ValueError: the algorithm needs activations, and the inputs have none; or
                their number or poses do not suit the parameters.
        """
        raise NotImplementedError(f"{type(self).__name__} needs votes")

    def make_pass(
        self,
        inputs: Capsules,
        transform: Transform,
        previous: Capsules | None = None,
    ) -> Capsules:
        """Makes one pass, for networks whose layers make each pass together.

        For algorithms whose config says that their routing can be concurrent.

        Args:
            inputs: capsules of the layer below, as the previous pass left them.
            transform: transformation from their poses to votes.
            previous: output capsules of the previous pass; None in the first.
        """
        raise NotImplementedError(f"{type(self).__name__} has no separate passes")

    def diagnose(self, inputs: Capsules, transform: Transform) -> routing.Diagnosis:
        """Diagnoses each iteration on a few dozen examples."""
        raise NotImplementedError(f"{type(self).__name__} cannot be diagnosed")

    def couplings(
        self, inputs: Capsules, transform: Transform
    ) -> Float[Array, "n C J"]:
        """The share of each child that goes to each output capsule at the end.

        For algorithms whose config says that they have couplings; of each position, as
        in `Transform.vectors`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not tell its couplings")


class RoutingOfVotes(Routing):
    """Base class of plug-ins that work on votes, for a block of examples at a time."""

    def route(
        self,
        votes: Float[Array, "B *N C J Q"],
        children: Capsules,
        inputs: Capsules,
        transform: Transform,
        step: Int[Array, ""] | int,
    ) -> tuple[Float[Array, "B *N J Q"], Float[Array, "B *N J"] | None]:
        """Poses and activations of the output capsules for some of the examples.

        Args:
            votes: votes of the children.
            children: their poses and activations.
            inputs: the capsules below, of whose grid the children are windows.
            transform: the transformation that made the votes.
            step: number of training steps taken so far, for annealing.
        """
        raise NotImplementedError(f"{type(self).__name__} does not route")

    def finish(
        self,
        poses: Float[Array, "B *N J Q"],
        activations: Float[Array, "B *N J"] | None,
        *,
        train: bool,
    ) -> tuple[Float[Array, "B *N J Q"], Float[Array, "B *N J"] | None]:
        """What an algorithm does with the results of all examples together."""
        return poses, activations

    def __call__(
        self,
        inputs: Capsules,
        transform: Transform,
        *,
        step: Int[Array, ""] | int = 0,
        train: bool = False,
    ) -> Capsules:
        """Output capsules; see `Routing.__call__`."""
        self.check_activations(inputs)

        def route(inputs: Capsules) -> tuple[Array, Array | None]:
            children = transform.children(inputs)
            votes = transform.votes(children)
            return self.route(votes, children, inputs, transform, step)

        found = blocks.over_examples(route, inputs, transform.votes_bytes(inputs))
        poses, activations = self.finish(*found, train=train)
        return Capsules(shaped_like(inputs, poses), activations)

    def check_activations(self, inputs: Capsules) -> None:
        """Refuses inputs without activations if the algorithm needs them.

        Raises:
            ValueError: it does.
        """
        if self.needs_activations and inputs.activations is None:
            raise ValueError(f"{self.name} routing needs capsules with activations")


def shaped_like(inputs: Capsules, poses: Float[Array, "B *N J Q"]) -> Array:
    """The poses of output capsules as matrices if those of the inputs are."""
    if not inputs.are_matrices:
        return poses
    d = inputs.poses.shape[-1]
    return poses.reshape(*poses.shape[:-1], d, d)


def lengths(poses: Float[Array, "*n Q"]) -> Float[Array, "*n"]:
    """The lengths of poses as activations, float32 at least.

    A loss compares them with margins; the two digits of half precision are not enough.
    """
    return routing.norm(at_least_float32(poses))


def route_vectors(
    op: Callable[..., Float[Array, "n J Q"]], inputs: Capsules, transform: Transform
) -> Capsules:
    """Routes by an op that takes poses and weights, with lengths as activations.

    Args:
        op: function from poses [n, C, P], weights [C, J, Q, P] and bias to poses
            [n, J, Q] of lengths below one.
        inputs: capsules of the layer below.
        transform: transformation from their poses to votes.
    """

    def route(inputs: Capsules) -> Capsules:
        children = transform.children(inputs)
        poses = op(*transform.vectors(children))
        activations = lengths(poses)
        positions = (len(inputs.poses), *children.grid)
        pose = children.poses.shape[-2:] if children.are_matrices else poses.shape[2:]
        return Capsules(
            poses.reshape(*positions, -1, *pose), activations.reshape(*positions, -1)
        )

    if transform.windows is None:
        return route(inputs)
    return blocks.over_examples(route, inputs, transform.votes_bytes(inputs))


@dataclasses.dataclass(kw_only=True, slots=True)
class Config(fields.Named):
    """Base class of routing configs, which declare what an algorithm offers.

    Attributes:
        activations: kind of the activations of the output capsules; None if they have
            none.
        needs_activations: whether the input capsules need activations.
        has_bias: whether a bias is added to the total inputs of the output capsules.
        activations_need_votes: whether the activations of the output capsules depend
            on the votes; if not, `Routing.activations_only` works.
        concurrent: whether `Routing.make_pass` works.
        diagnosable: whether `Routing.diagnose` works.
        has_couplings: whether `Routing.couplings` works.
        implementations: names of interchangeable implementations, which the field
            ``implementation`` chooses from; empty if there is only one.
    """

    activations: ClassVar[Scores | None] = "lengths"
    needs_activations: ClassVar[bool] = False
    has_bias: ClassVar[bool] = True
    activations_need_votes: ClassVar[bool] = True
    concurrent: ClassVar[bool] = False
    diagnosable: ClassVar[bool] = False
    has_couplings: ClassVar[bool] = False
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

    def couplings_followed(self) -> Self:
        """The same routing, whose gradient goes through all of it."""
        return self.replace()

    def couplings_held(self) -> Self:
        """The same routing, whose gradient takes coupling coefficients as constants.

        Raises:
            NotApplicableError: it does not have that gradient.
        """
        raise NotApplicableError(
            f"{self.name} routing does not hold coupling coefficients"
        )

    def couplings_equal(self) -> Self:
        """A routing for the same parameters that weighs all votes of a capsule alike.

        Raises:
            NotApplicableError: there is none.
        """
        raise NotApplicableError(f"{self.name} routing has no iteration to leave out")

    def columns(self) -> dict[str, str]:
        """Cells of this routing in rows of results."""
        return {
            "routing": self.name,
            "routing_iterations": str(self.iterations or ""),
            "routing_implementation": self.implementation or "default",
        }
