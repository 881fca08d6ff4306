"""Capsule layers: primary capsules, routed capsules, and the masked decoder.

Notation, here and in all of capsjax: B examples, I input capsules of P dimensions, J
output capsules (classes) of Q dimensions, images H x W x C.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from capsjax.convolution import Conv, output_size
from kernels import routing
from kernels.dtypes import accumulation_dtype

Initializer = jax.nn.initializers.Initializer


@dataclasses.dataclass(frozen=True)
class Initializers:
    """How the parameters of a CapsNet start, layer by layer."""

    conv1: Initializer
    primary: Initializer
    routed: Initializer
    dense: Initializer
    bias: Initializer


INITIALIZERS = {
    # What the paper leaves open, filled by the field's defaults. The transformation
    # matrices have no fan-in of the usual kind (the coupling coefficients divide it),
    # so they take the released code's scale.
    "standard": Initializers(
        conv1=jax.nn.initializers.lecun_normal(),
        primary=jax.nn.initializers.lecun_normal(),
        routed=jax.nn.initializers.truncated_normal(0.1),
        dense=jax.nn.initializers.lecun_normal(),
        bias=jax.nn.initializers.zeros,
    ),
    # As the paper's authors released it (Sarasra/models, research/capsules).
    "authors_code": Initializers(
        conv1=jax.nn.initializers.truncated_normal(0.05),
        primary=jax.nn.initializers.truncated_normal(0.1),
        routed=jax.nn.initializers.truncated_normal(0.1),
        dense=jax.nn.initializers.truncated_normal(0.1),
        bias=jax.nn.initializers.constant(0.1),
    ),
}


@jax.custom_vjp
def relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """``max(x, 0)``, whose gradient keeps the result and not the argument.

    The layer after it keeps the result anyway: what is saved is the features of a whole
    batch, once. The gradient at 0 is 0. Reverse-mode gradients only.
    """
    return jax.nn.relu(x)


def _relu_fwd(x: Array) -> tuple[Array, Array]:
    # Behind a barrier, or XLA makes the result again from the argument, which it keeps.
    y = jax.lax.optimization_barrier(relu(x))
    return y, y


def _relu_bwd(y: Array, gradient: Array) -> tuple[Array]:
    return (jnp.where(y > 0, gradient, jnp.zeros_like(gradient)),)


relu.defvjp(_relu_fwd, _relu_bwd)


class PrimaryCapsules(nnx.Module):
    """A convolution whose channels, in groups of P, are the first capsules.

    A capsule is the P channels of one type at one position; there are ``h * w *
    num_types`` of them, ordered by position (row, column) and then by type.

    Attributes:
        conv: the convolution, without its bias.
        bias: [num_types, P] float32.
        coupling: what the convolution's output is multiplied with before the squash.

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
        return routing.squash(s).reshape(s.shape[0], -1, dim)


class RoutedCapsules(nnx.Module):
    """Capsules that take their inputs by routing-by-agreement (digit capsules).

    Attributes:
        weights: transformation matrices [I, J, Q, P] float32.
        bias: [J, Q] float32, or None.

    References:
        Sabour, Frosst and Hinton 2017, sections 2 and 4.
    """

    def __init__(
        self,
        in_capsules: int,
        in_dim: int,
        out_capsules: int,
        out_dim: int,
        *,
        num_iterations: int,
        leaky: bool,
        stop_gradient: bool,
        use_bias: bool,
        implementation: str | None,
        init: Initializers,
        rngs: nnx.Rngs,
    ):
        self.weights = nnx.Param(
            init.routed(
                rngs.params(), (in_capsules, out_capsules, out_dim, in_dim), jnp.float32
            )
        )
        self.bias = (
            nnx.Param(init.bias(rngs.params(), (out_capsules, out_dim), jnp.float32))
            if use_bias
            else None
        )
        self.num_iterations = num_iterations
        self.leaky = leaky
        self.stop_gradient = stop_gradient
        self.implementation = implementation

    def __call__(self, poses: Float[Array, "B I P"]) -> Float[Array, "B J Q"]:
        """Poses of the output capsules."""
        return routing.route(
            poses,
            self.weights[...],
            None if self.bias is None else self.bias[...],
            num_iterations=self.num_iterations,
            leaky=self.leaky,
            stop_gradient=self.stop_gradient,
            implementation=self.implementation,
        )

    def diagnose(self, poses: Float[Array, "B I P"]) -> routing.Diagnosis:
        """What each routing iteration does to the poses of a few dozen examples."""
        return routing.diagnose(
            poses,
            self.weights[...],
            None if self.bias is None else self.bias[...],
            num_iterations=self.num_iterations,
            leaky=self.leaky,
        )


class MaskedDecoder(nnx.Module):
    """Reconstructs the image from the pose of one class capsule.

    All other classes' poses are masked out by zeros. Hidden layers are ReLU, the output
    is a sigmoid: images must lie in [0, 1]. Where an image shows several classes, each
    is drawn on its own.

    References:
        Sabour, Frosst and Hinton 2017, section 4.1, figure 2 and section 6.
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        hidden_units: Sequence[int],
        image_shape: tuple[int, int, int],
        *,
        init: Initializers,
        rngs: nnx.Rngs,
    ):
        H, W, C = image_shape
        sizes = [num_classes * dim, *hidden_units, H * W * C]
        self.layers = nnx.List(
            nnx.Linear(
                n_in, n_out, kernel_init=init.dense, bias_init=init.bias, rngs=rngs
            )
            for n_in, n_out in itertools.pairwise(sizes)
        )
        self.image_shape = image_shape

    def __call__(
        self, poses: Float[Array, "B J Q"], labels: Int[Array, "B *K"]
    ) -> Float[Array, "B *K H W C"]:
        """Reconstructions in [0, 1] from the poses of the classes in ``labels``.

        float32 at least, also in half precision: a pixel has 256 levels.
        """
        if labels.ndim == 1:
            return self._draw(poses, labels)
        return jax.vmap(self._draw, (None, 1), 1)(poses, labels)

    def _draw(
        self, poses: Float[Array, "B J Q"], labels: Int[Array, " B"]
    ) -> Float[Array, "B H W C"]:
        mask = jax.nn.one_hot(labels, poses.shape[1], dtype=poses.dtype)
        x = (poses * mask[:, :, None]).reshape(poses.shape[0], -1)
        *hidden, last = self.layers
        for layer in hidden:
            x = relu(layer(x))
        logits = last(x)
        logits = logits.astype(accumulation_dtype(logits.dtype))
        return jax.nn.sigmoid(logits).reshape(-1, *self.image_shape)


def primary_grid(
    image_shape: tuple[int, int, int],
    *,
    conv1_kernel: int,
    primary_kernel: int,
    primary_stride: int,
    padding: str,
) -> tuple[int, int]:
    """Rows and columns of the primary capsules' grid.

    Raises:
        ValueError: the image is too small for the kernels, or padding or stride are
            none.
    """
    if padding not in ("VALID", "SAME"):
        raise ValueError(f"unknown padding {padding!r}; choose VALID or SAME")
    if primary_stride < 1:
        raise ValueError(f"primary_stride must be at least 1; got {primary_stride}")
    sizes = []
    for size in image_shape[:2]:
        after = output_size(size, conv1_kernel, 1, padding)
        sizes.append(output_size(after, primary_kernel, primary_stride, padding))
    if min(sizes) < 1:
        raise ValueError(
            f"images of {image_shape[0]}x{image_shape[1]} pixels are too small for "
            f"conv1 {conv1_kernel}x{conv1_kernel} and primary capsules "
            f"{primary_kernel}x{primary_kernel} with stride {primary_stride} "
            f"({padding} padding); use smaller kernels, SAME padding or larger images"
        )
    return sizes[0], sizes[1]
