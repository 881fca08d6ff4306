"""Routed layers of capsules: fully connected and convolutional.

Notation, here and in all of capsjax: B examples, I input capsules of P dimensions, J
output capsules (classes) of Q dimensions, images H x W x C.
"""

import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from capsjax import routings
from capsjax.errors import SettingsError
from capsjax.layers.initializers import Initializer
from capsjax.layers.recording import Window
from capsjax.routings import Capsules, Sizes, Transform
from kernels.dtypes import at_least_float32
from kernels.routing import Diagnosis
from kernels.routing.votes import Windows, coordinates


class RoutedCapsules(nnx.Module):
    """Capsules that take their inputs from all capsules below (class capsules).

    Attributes:
        weights: transformation matrices, [I, J, Q, P] float32; [I, J, d, d] for poses
            that are matrices; None in a layer that only has activations.
        bias: [J, Q] float32, or None.
        routing: the routing algorithm, a plug-in that may have parameters.
        grid: (H, W) of the capsules below if their weights are shared by all places
            and coordinates are added to their votes; else None.
        readout: linear map from a pose to its logit, the same for all capsules; None
            if the routing gives activations.

    References:
        Sabour, Frosst and Hinton 2017, sections 2 and 4; Hinton, Sabour and Frosst
        2018, section 4 for shared weights.
    """

    def __init__(
        self,
        sizes: Sizes,
        *,
        routing: routings.Config,
        weights_init: Initializer,
        bias_init: Initializer | None = None,
        matrices: bool = False,
        shared_over: tuple[int, int] | None = None,
        readout: bool = True,
        poses: bool = True,
        rngs: nnx.Rngs,
    ):
        """Builds the layer.

        Args:
            sizes: capsules below (all places together), and above.
            routing: the routing algorithm.
            weights_init: initial transformation matrices.
            bias_init: initial bias, or None for no bias.
            matrices: whether poses are d x d matrices, of P = Q = d * d elements.
            shared_over: grid of the capsules below if all places share their weights.
            readout: whether capsules that the routing gives no activations get logits.
            poses: whether the layer is called for its poses. If only `activations` is,
                a routing that makes them without votes needs no matrices.
            rngs: generator whose ``params`` stream initialises the parameters.

        Raises:
            SettingsError: a bias for a routing that takes none; Q is not P or not a
                square where poses are matrices; or the capsules below do not fill the
                grid.
        """
        types, rest = divmod(sizes.in_capsules, math.prod(shared_over or ()))
        if shared_over and rest:
            raise SettingsError(
                f"{sizes.in_capsules} capsules cannot be equally many at each place of "
                f"a {shared_over[0]}x{shared_over[1]} grid"
            )
        shape = (types, sizes.out_capsules, *_transform_shape(sizes, matrices))
        needs_votes = poses or routing.activations_need_votes
        self.weights = (
            nnx.Param(weights_init(rngs.params(), shape, jnp.float32))
            if needs_votes
            else None
        )
        self.bias = _bias(sizes, routing, bias_init, rngs)
        self.routing = routing.build(sizes, rngs)
        self.grid = shared_over
        needs_readout = readout and routing.activations is None
        self.readout = (
            nnx.Linear(sizes.out_dim, 1, rngs=rngs) if needs_readout else None
        )

    def __call__(
        self,
        inputs: Capsules,
        *,
        step: Int[Array, ""] | int = 0,
        train: bool = False,
    ) -> Capsules:
        """Poses [B, J, Q] or [B, J, d, d], and activations [B, J] if there are any.

        Args:
            inputs: capsules below, with or without a grid.
            step: number of training steps taken so far, for annealed routing.
            train: whether this is part of a train step.
        """
        _check_activations(self.routing, inputs)
        return self._read_out(
            self.routing(inputs, self._transform(), step=step, train=train)
        )

    def activations(
        self,
        inputs: Capsules,
        *,
        step: Int[Array, ""] | int = 0,
        train: bool = False,
    ) -> Float[Array, "B J"]:
        """The activations alone, or logits; the arguments are those of a call."""
        if self.weights is None:
            _check_activations(self.routing, inputs)
            return self.routing.activations_only(inputs)
        found = self(inputs, step=step, train=train).activations
        if found is None:
            raise ValueError(
                "the routing gives no activations, and there is no readout"
            )
        return found

    def make_pass(self, inputs: Capsules, previous: Capsules | None = None) -> Capsules:
        """Capsules after one more pass of a routing that can be concurrent.

        Args:
            inputs: capsules below, as the previous pass left them.
            previous: this layer's capsules of the previous pass; None in the first.
        """
        _check_activations(self.routing, inputs)
        return self._read_out(
            self.routing.make_pass(inputs, self._transform(), previous)
        )

    def diagnose(self, inputs: Capsules) -> Diagnosis:
        """Diagnoses each routing iteration on a few dozen examples."""
        return self.routing.diagnose(inputs, self._transform())

    def couplings(self, inputs: Capsules) -> Float[Array, "B I J"]:
        """The share of each capsule below that goes to each of this layer at the end.

        For routings whose config says that they have couplings.
        """
        return self.routing.couplings(inputs, self._transform())

    def _read_out(self, found: Capsules) -> Capsules:
        if self.readout is None:
            return found
        poses = found.poses.reshape(*found.poses.shape[:2], -1)
        logits = self.readout(poses)[:, :, 0]
        return found._replace(activations=at_least_float32(logits))

    def _transform(self) -> Transform:
        if self.weights is None:
            raise ValueError("a layer without transformation matrices has no poses")
        weights = self.weights[...]
        bias = None if self.bias is None else self.bias[...]
        if self.grid is None:
            return Transform(weights, bias)
        places = math.prod(self.grid)
        offsets = coordinates(self.grid, math.prod(weights.shape[2:]))
        offsets = jnp.repeat(offsets.reshape(places, -1), len(weights), axis=0)
        weights = jnp.tile(weights, (places, 1, 1, 1))
        return Transform(weights, bias, offsets.astype(weights.dtype))


class ConvCapsules(nnx.Module):
    """Capsules on a grid, each with the capsules in its window as children.

    Attributes:
        weights: transformation matrices, shared by all windows, [K, K, I, J, Q, P]
            float32; [K, K, I, J, d, d] for poses that are matrices.
        bias: [J, Q] float32, or None.
        routing: the routing algorithm, a plug-in that may have parameters.
        windows: kernel, stride and padding.

    References:
        Hinton, Sabour and Frosst 2018, section 4.
    """

    def __init__(
        self,
        types: Sizes,
        windows: Windows,
        *,
        routing: routings.Config,
        weights_init: Initializer,
        bias_init: Initializer | None = None,
        matrices: bool = False,
        rngs: nnx.Rngs,
    ):
        """Builds the layer.

        Args:
            types: types of capsules at each place below and above, and their poses.
            windows: kernel, stride and padding.
            routing: the routing algorithm.
            weights_init: initial transformation matrices.
            bias_init: initial bias, or None for no bias.
            matrices: whether poses are d x d matrices, of P = Q = d * d elements.
            rngs: generator whose ``params`` stream initialises the parameters.

        Raises:
            SettingsError: a bias for a routing that takes none, or Q is not P or not a
                square where poses are matrices.
        """
        I, J, K = types.in_capsules, types.out_capsules, windows.kernel
        shape = (K, K, I, J, *_transform_shape(types, matrices))
        self.weights = nnx.Param(weights_init(rngs.params(), shape, jnp.float32))
        self.bias = _bias(types, routing, bias_init, rngs)
        self.routing = routing.build(types._replace(in_capsules=K * K * I), rngs)
        self.windows = windows

    @property
    def receptive_window(self) -> Window:
        """The places below that one place sees."""
        return Window(self.windows.kernel, self.windows.stride)

    def __call__(
        self,
        inputs: Capsules,
        *,
        step: Int[Array, ""] | int = 0,
        train: bool = False,
    ) -> Capsules:
        """Poses [B, h, w, J, Q] or [B, h, w, J, d, d], and activations if any.

        Args:
            inputs: capsules on a grid.
            step: number of training steps taken so far, for annealed routing.
            train: whether this is part of a train step.
        """
        _check_activations(self.routing, inputs)
        return self.routing(inputs, self._transform(), step=step, train=train)

    def make_pass(self, inputs: Capsules, previous: Capsules | None = None) -> Capsules:
        """Capsules after one more pass; see `RoutedCapsules.make_pass`."""
        _check_activations(self.routing, inputs)
        return self.routing.make_pass(inputs, self._transform(), previous)

    def _transform(self) -> Transform:
        weights = self.weights[...]
        return Transform(
            weights.reshape(-1, *weights.shape[3:]),
            None if self.bias is None else self.bias[...],
            windows=self.windows,
        )


def _check_activations(routing: routings.Routing, inputs: Capsules) -> None:
    if routing.needs_activations and inputs.activations is None:
        suitable = [
            name
            for name, config in routings.ROUTINGS.items()
            if not config.needs_activations
        ]
        raise SettingsError(
            f"config.model.routing.name {routing.name!r} needs activations, and the "
            "layer of capsules below has none; choose one of "
            f"{', '.join(suitable)}"
        )


def _transform_shape(sizes: Sizes, matrices: bool) -> tuple[int, int]:
    if not matrices:
        return sizes.out_dim, sizes.in_dim
    d = math.isqrt(sizes.in_dim)
    if d * d != sizes.in_dim or sizes.out_dim != sizes.in_dim:
        raise SettingsError(
            f"poses that are matrices have d x d elements below and above; "
            f"got {sizes.in_dim} and {sizes.out_dim}"
        )
    return d, d


def _bias(
    sizes: Sizes,
    routing: routings.Config,
    init: Initializer | None,
    rngs: nnx.Rngs,
) -> nnx.Param | None:
    if init is None:
        return None
    if not routing.has_bias:
        raise SettingsError(
            f"{routing.name} routing has no bias of the output capsules; "
            "leave routing_bias out"
        )
    return nnx.Param(init(rngs.params(), sizes[2:], jnp.float32))
