"""CapsNet, the network of the paper on dynamic routing."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from capsjax.layers import (
    INITIALIZERS,
    Conv,
    MaskedDecoder,
    PrimaryCapsules,
    RoutedCapsules,
    primary_grid,
    relu,
)
from capsjax.models.base import ModelOutput, at_least_float32
from kernels import routing


class CapsNet(nnx.Module):
    """Conv1 -> primary capsules -> routed class capsules -> masked decoder.

    The defaults are the paper's MNIST network: 8,215,568 parameters on 28x28x1 images
    with 10 classes (with ``routing_bias``, as released by the authors, 8,215,728).

    References:
        Sabour, Frosst and Hinton 2017, section 4, figures 1 and 2.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        *,
        conv1_channels: int = 256,
        conv1_kernel: int = 9,
        primary_types: int = 32,
        primary_dim: int = 8,
        primary_kernel: int = 9,
        primary_stride: int = 2,
        padding: str = "VALID",
        class_dim: int = 16,
        decoder_units: Sequence[int] = (512, 1024),
        routing_iterations: int = 3,
        routing_implementation: str | None = None,
        routing_bias: bool = False,
        route_primary: bool = False,
        leaky: bool = False,
        stop_gradient: bool = False,
        initializers: str = "standard",
        rngs: nnx.Rngs,
    ):
        """Builds the network.

        Args:
            image_shape: (H, W, C) in pixels and channels.
            num_classes: J.
            conv1_channels: of the first convolution.
            conv1_kernel: its size in pixels; stride 1.
            primary_types: types of primary capsules at each position.
            primary_dim: P, their dimensions.
            primary_kernel: size of the primary capsules' kernel in pixels.
            primary_stride: its stride.
            padding: of both convolutions, ``"VALID"`` or ``"SAME"``.
            class_dim: Q, dimensions of the class capsules.
            decoder_units: units of the decoder's hidden layers; empty for no decoder.
            routing_iterations: r.
            routing_implementation: a name from `kernels.routing.IMPLEMENTATIONS`, or
                None for the best.
            routing_bias: whether class capsules have a bias, as in the released code.
            route_primary: see `PrimaryCapsules`.
            leaky: lets capsules be routed to "none of the above".
            stop_gradient: see `kernels.routing.route`.
            initializers: a name from `capsjax.layers.INITIALIZERS`.
            rngs: its ``params`` stream starts the parameters.

        Raises:
            ValueError: the image is too small for the kernels, or unknown initializers.
        """
        if initializers not in INITIALIZERS:
            raise ValueError(
                f"unknown initializers {initializers!r}; "
                f"choose one of {', '.join(INITIALIZERS)}"
            )
        init = INITIALIZERS[initializers]
        grid = primary_grid(
            image_shape,
            conv1_kernel=conv1_kernel,
            primary_kernel=primary_kernel,
            primary_stride=primary_stride,
            padding=padding,
        )
        self.conv1 = Conv(
            image_shape[2],
            conv1_channels,
            conv1_kernel,
            padding=padding,
            kernel_init=init.conv1,
            bias_init=init.bias,
            rngs=rngs,
        )
        self.primary_capsules = PrimaryCapsules(
            conv1_channels,
            primary_types,
            primary_dim,
            primary_kernel,
            stride=primary_stride,
            padding=padding,
            route=route_primary,
            leaky=leaky,
            init=init,
            rngs=rngs,
        )
        self.class_capsules = RoutedCapsules(
            grid[0] * grid[1] * primary_types,
            primary_dim,
            num_classes,
            class_dim,
            num_iterations=routing_iterations,
            leaky=leaky,
            stop_gradient=stop_gradient,
            use_bias=routing_bias,
            implementation=routing_implementation,
            init=init,
            rngs=rngs,
        )
        self.decoder = (
            MaskedDecoder(
                num_classes,
                class_dim,
                decoder_units,
                image_shape,
                init=init,
                rngs=rngs,
            )
            if decoder_units
            else None
        )

    def __call__(
        self,
        images: Float[Array, "B H W C"],
        labels: Int[Array, "B *K"] | None = None,
        *,
        dropout_keys: Key[Array, " B"] | None = None,
    ) -> ModelOutput:
        """Classifies and reconstructs a batch; CapsNet has no dropout."""
        del dropout_keys
        primary = self._primary(images)
        with jax.named_scope("class_capsules"):
            poses = self.class_capsules(primary)
            # The loss compares lengths with margins; two digits are not enough.
            lengths = routing.norm(at_least_float32(poses))
        if self.decoder is None:
            return ModelOutput(lengths, poses)
        if labels is None:
            labels = jnp.argmax(lengths, axis=1)
        with jax.named_scope("decoder"):
            reconstructions = self.decoder(poses, labels)
        return ModelOutput(lengths, poses, reconstructions)

    def diagnose_routing(self, images: Float[Array, "B H W C"]) -> routing.Diagnosis:
        """What each routing iteration does to a few dozen images."""
        return self.class_capsules.diagnose(self._primary(images))

    def _primary(self, images: Float[Array, "B H W C"]) -> Float[Array, "B I P"]:
        with jax.named_scope("conv1"):
            features = relu(self.conv1(images))
        with jax.named_scope("primary_capsules"):
            return self.primary_capsules(features)
