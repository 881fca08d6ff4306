"""The convolution of all models: XLA's own, except strided ones on a CPU.

The gradient of a strided convolution with respect to its input dilates its operand,
which falls off the fast path of XLA's CPU backend: for CapsNet's 9x9 stride-2
convolution it takes minutes where all else takes seconds. On a CPU strided convolutions
are therefore written as a sum of matrix products, one for each row of the kernel. The
numbers are those of the same convolution; other backends keep theirs (cuDNN on a GPU).
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from kernels.dtypes import accumulation_dtype


class Conv(nnx.Module):
    """2-D convolution with a square kernel, one stride and a bias.

    Attributes:
        kernel: [K, K, C_in, C_out] float32.
        bias: [C_out] float32, or None.
        stride: in pixels, along both axes.
        padding: ``"VALID"`` or ``"SAME"``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: str = "VALID",
        kernel_init: jax.nn.initializers.Initializer,
        bias_init: jax.nn.initializers.Initializer | None,
        rngs: nnx.Rngs,
    ):
        shape = (kernel_size, kernel_size, in_channels, out_channels)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, jnp.float32))
        self.bias = (
            None
            if bias_init is None
            else nnx.Param(bias_init(rngs.params(), (out_channels,), jnp.float32))
        )
        self.stride = stride
        self.padding = padding

    def __call__(self, x: Float[Array, "B H W C_in"]) -> Float[Array, "B h w C_out"]:
        """Convolves a batch of images; sizes ``h, w`` are `output_size` of H and W."""
        y = convolve(x, self.kernel[...], self.stride, self.padding)
        return y if self.bias is None else y + self.bias[...][None, None, None]


def output_size(size: int, kernel_size: int, stride: int, padding: str) -> int:
    """Pixels along one axis after a convolution; 0 or less if the kernel won't fit."""
    if padding == "SAME":
        return -(-size // stride)
    return (size - kernel_size) // stride + 1


def convolve(
    x: Float[Array, "B H W C_in"],
    kernel: Float[Array, "K K C_in C_out"],
    stride: int,
    padding: str,
) -> Float[Array, "B h w C_out"]:
    """Convolves images with a kernel (a cross-correlation, as usual in the field).

    Args:
        x: images or features, channels last.
        kernel: square kernel, dtype of ``x``.
        stride: in pixels, along both axes.
        padding: ``"VALID"``, or ``"SAME"``: zeros so that the size is H / stride,
            rounded up.

    Returns:
        Features of the dtype of ``x``. Reverse-mode gradients only where stride > 1.
    """
    pads = jax.lax.padtype_to_pads(
        x.shape[1:3], kernel.shape[:2], (stride, stride), padding
    )
    if stride == 1:
        return _native(x, kernel, stride, pads)
    x = jnp.pad(x, [(0, 0), *pads, (0, 0)])
    return _strided(x, kernel, stride)


def _native(x: Array, kernel: Array, stride: int, pads) -> Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _by_kernel_rows(x: Array, kernel: Array, stride: int) -> Array:
    """The convolution as matrix products of patches with single kernel rows.

    A matrix of patches for the whole kernel would be K times as large. The loop and
    the rematerialisation keep its K parts from being held all at once, forward and in
    the gradient.
    """
    B, H, W, _ = x.shape
    K, _, C_in, C_out = kernel.shape
    h, w = (output_size(size, K, stride, "VALID") for size in (H, W))
    span_h, span_w = stride * (h - 1) + 1, stride * (w - 1) + 1

    @jax.checkpoint
    def add_row(y, row):
        i, kernel_row = row
        lines = jax.lax.dynamic_slice_in_dim(x, i, span_h, axis=1)[:, ::stride]
        patches = jnp.concatenate(
            [lines[:, :, j : j + span_w : stride] for j in range(K)], axis=-1
        ).reshape(-1, K * C_in)
        product = jnp.matmul(
            patches, kernel_row.reshape(K * C_in, C_out), preferred_element_type=wide
        )
        return y + product, None

    wide = accumulation_dtype(x.dtype)
    y = jnp.zeros((B * h * w, C_out), wide)
    y, _ = jax.lax.scan(add_row, y, (jnp.arange(K), kernel))
    return y.reshape(B, h, w, C_out).astype(x.dtype)


# A custom gradient, so that the platform is chosen once forward and once backward:
# differentiating through `platform_dependent` would keep both branches' residuals.
@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _strided(x: Array, kernel: Array, stride: int) -> Array:
    """A VALID strided convolution in the form that suits the platform."""
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(_by_kernel_rows, stride=stride),
        default=functools.partial(_native, stride=stride, pads="VALID"),
    )


def _strided_fwd(x: Array, kernel: Array, stride: int):
    return _strided(x, kernel, stride), (x, kernel)


def _strided_bwd(stride: int, residuals, gradient: Array):
    def gradients_of(forward):
        return lambda x, kernel, gradient: jax.vjp(forward, x, kernel)[1](gradient)

    return jax.lax.platform_dependent(
        *residuals,
        gradient,
        cpu=gradients_of(functools.partial(_by_kernel_rows, stride=stride)),
        default=gradients_of(functools.partial(_native, stride=stride, pads="VALID")),
    )


_strided.defvjp(_strided_fwd, _strided_bwd)
