"""Capsule layers: primary capsules and routed capsules.

Notation, here and in all of capsjax: B examples, I input capsules of P dimensions, J
output capsules (classes) of Q dimensions, images H x W x C.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from capsjax import routings
from capsjax.errors import SettingsError
from capsjax.layers.convolution import Conv
from capsjax.layers.initializers import Initializers
from capsjax.routings import Capsules, Sizes, Transform
from kernels.convolution import output_size
from kernels.routing import Diagnosis, squash


class PrimaryCapsules(nnx.Module):
    """A convolution whose channels, in groups of P, are the first capsules.

    A capsule is the P channels of one type at one position; there are ``h * w *
    num_types`` of them, ordered by position (row, column) and then by type.

    Attributes:
        conv: the convolution, without its bias.
        bias: [num_types, P] float32.
        coupling: factor of the convolution's output.

    References:
        Sabour, Frosst and Hinton 2017, section 4. ``route`` is what the authors'
        released code does: the convolution's output is "routed" once to the
        ``num_types`` types with uniform coupling coefficients, and so divided by their
        number (by one more if leaky) before the bias is added.
    """

    def __init__(
        self,
        in_channels: int,
        num_types: int,
        dim: int,
        kernel_size: int,
        *,
        stride: int,
        padding: str,
        route: bool,
        leaky: bool,
        init: Initializers,
        rngs: nnx.Rngs,
    ):
        self.conv = Conv(
            in_channels,
            num_types * dim,
            kernel_size,
            stride=stride,
            padding=padding,
            kernel_init=init.primary,
            bias_init=None,
            rngs=rngs,
        )
        self.bias = nnx.Param(init.bias(rngs.params(), (num_types, dim), jnp.float32))
        self.coupling = 1 / (num_types + leaky) if route else 1.0

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B I P"]:
        """Poses of the primary capsules, each of length below one."""
        num_types, dim = self.bias.shape
        s = self.conv(x) * self.coupling
        # Splitting the channel axis alone keeps a capsule's channels together.
        s = s.reshape(s.shape[0], -1, num_types, dim) + self.bias[...][None, None]
        return squash(s).reshape(s.shape[0], -1, dim)


class RoutedCapsules(nnx.Module):
    """Capsules that take their inputs from all capsules below (class capsules).

    Attributes:
        weights: transformation matrices [I, J, Q, P] float32.
        bias: [J, Q] float32, or None.
        routing: the routing algorithm, a plug-in that may have parameters.

    References:
        Sabour, Frosst and Hinton 2017, sections 2 and 4.
    """

    def __init__(
        self,
        sizes: Sizes,
        *,
        routing: routings.Config,
        use_bias: bool,
        init: Initializers,
        rngs: nnx.Rngs,
    ):
        I, P, J, Q = sizes
        self.weights = nnx.Param(init.routed(rngs.params(), (I, J, Q, P), jnp.float32))
        bias = init.bias(rngs.params(), (J, Q), jnp.float32) if use_bias else None
        self.bias = None if bias is None else nnx.Param(bias)
        self.routing = routing.build(sizes, rngs)

    def __call__(self, inputs: Capsules, *, step: Int[Array, ""] | int = 0) -> Capsules:
        """Poses [B, J, Q] and activations [B, J] of the output capsules.

        Args:
            inputs: capsules below, [B, I, P].
            step: number of training steps taken so far, for annealed routing.
        """
        return self.routing(inputs, self._transform(), step=step)

    def diagnose(self, inputs: Capsules) -> Diagnosis:
        """Diagnoses each routing iteration on a few dozen examples."""
        return self.routing.diagnose(inputs, self._transform())

    def _transform(self) -> Transform:
        return Transform(
            self.weights[...], None if self.bias is None else self.bias[...]
        )


def primary_grid(
    image_shape: tuple[int, int, int],
    *,
    conv1_kernel: int,
    primary_kernel: int,
    primary_stride: int,
    padding: str,
) -> tuple[int, int]:
    """Returns the number of rows and columns of the primary capsules' grid.

    Raises:
        SettingsError: the image is too small for the kernels.
    """
    features = (output_size(size, conv1_kernel, 1, padding) for size in image_shape[:2])
    rows, columns = (
        output_size(size, primary_kernel, primary_stride, padding) for size in features
    )
    if min(rows, columns) < 1:
        raise SettingsError(
            f"images of {image_shape[0]}x{image_shape[1]} pixels are too small for "
            f"conv1 {conv1_kernel}x{conv1_kernel} and primary capsules "
            f"{primary_kernel}x{primary_kernel} with stride {primary_stride} "
            f"({padding} padding); use smaller kernels, SAME padding or larger images"
        )
    return rows, columns
