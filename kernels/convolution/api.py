"""The convolution of all models: XLA's own, except on a CPU.

XLA's CPU backend convolves at a quarter of the speed of its matrix products, and the
gradient of a strided convolution with respect to its input, which dilates its operand,
takes minutes where everything else takes seconds. On a CPU a convolution is therefore
written as matrix products: of Fourier transforms where that saves enough operations
(`spectral`), else of patches with the kernel or its rows. Only convolutions with stride
1 and a medium number of channels are left to XLA; of large ones with 3x3 pixels, the
gradient of the kernel is not. Signals and volumes, of one and three dimensions, are
products of patches always. The results are the same up to rounding; other backends use
their own convolution (cuDNN on a GPU).
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.convolution import spectral
from kernels.dtypes import accumulation_dtype

# Fourier transforms are used if they need less than this share of the operations, for
# stride 1 and larger ones: below it they were faster, forward and backward together.
_SPECTRAL_SHARE, _SPECTRAL_SHARE_STRIDED = 0.5, 0.8

# Bytes of the patches of a chunk of images, of which the gradient of a kernel is made:
# they stay in the cache of a CPU's core. The best of 0.2 .. 4 MB for 16 .. 64 channels.
_CHUNK_BYTES = 3 * 2**19

# Where XLA's gradient of a kernel is not used: for the kernels that were measured, and
# not for so few additions and multiplications that they take a few milliseconds.
_ROWS_FOR_KERNEL, _ROWS_FROM = 3, 2 * 10**8

_materialized = jax.lax.optimization_barrier

Padding = str | int
"""Zeros around an image, see `convolve`."""

_Pads = tuple[tuple[int, int], ...]


def output_size(
    size: int, kernel_size: int, stride: int, padding: Padding = "VALID"
) -> int:
    """Returns the pixels along one axis after a convolution.

    The number is 0 or less if the kernel does not fit.
    """
    if padding == "SAME":
        return -(-size // stride)
    zeros = 2 * padding if isinstance(padding, int) else 0
    return (size + zeros - kernel_size) // stride + 1


def convolve(
    x: Float[Array, "B *sizes C_in"],
    kernel: Float[Array, "*K C_in C_out"],
    stride: int,
    padding: Padding,
) -> Float[Array, "B *outputs C_out"]:
    """Convolves images with a kernel (a cross-correlation, as usual in the field).

    Args:
        x: images [B, H, W, C_in] or features, channels last; or signals or volumes,
            with one or three axes in place of H and W.
        kernel: kernel of the same size K along each of these axes, dtype of ``x``.
        stride: the stride in pixels, along all of them.
        padding: ``"VALID"``; ``"SAME"``: zeros so that the size is H / stride, rounded
            up; or the number of zeros on each side.

    Returns:
        Features of the dtype of ``x``. Reverse-mode gradients only.
    """
    sizes = x.shape[1:-1]
    if isinstance(padding, int):
        pads = [(padding, padding)] * len(sizes)
    else:
        pads = jax.lax.padtype_to_pads(
            sizes, kernel.shape[:-2], (stride,) * len(sizes), padding
        )
    return _convolve(x, kernel, stride, tuple(pads))


# A custom gradient, so that the platform is chosen once forward and once backward:
# differentiating through `platform_dependent` would keep both branches' residuals.
@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x: Array, kernel: Array, stride: int, pads: _Pads) -> Array:
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(_on_cpu, stride=stride, pads=pads),
        default=functools.partial(_native, stride=stride, pads=pads),
    )


def _convolve_fwd(x: Array, kernel: Array, stride: int, pads: _Pads):
    return _convolve(x, kernel, stride, pads), (x, kernel)


def _convolve_bwd(stride: int, pads: _Pads, residuals, gradient: Array):
    def gradients_of(forward: Callable[..., Array]):
        forward = functools.partial(forward, stride=stride, pads=pads)
        return lambda x, kernel, gradient: jax.vjp(forward, x, kernel)[1](gradient)

    return jax.lax.platform_dependent(
        *residuals,
        gradient,
        cpu=gradients_of(_on_cpu),
        default=gradients_of(_native),
    )


_convolve.defvjp(_convolve_fwd, _convolve_bwd)


def _native(x: Array, kernel: Array, stride: int, pads: _Pads) -> Array:
    axes = "DHW"[-len(pads) :]
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride,) * len(pads),
        pads,
        dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
    )


def _on_cpu(x: Array, kernel: Array, stride: int, pads: _Pads) -> Array:
    padded = jnp.pad(x, [(0, 0), *pads, (0, 0)])
    if len(pads) != 2:
        return _in_chunks(*_phases(padded, kernel, stride))
    B, H, W, C_in = padded.shape
    K, C_out = kernel.shape[0], kernel.shape[3]
    h, w = (output_size(size, K, stride, "VALID") for size in (H, W))
    tiling, operations = spectral.plan((h, w), K, stride, B, (C_in, C_out))
    directly = 2 * B * h * w * K**2 * C_in * C_out
    share = operations / directly
    if share < (_SPECTRAL_SHARE if stride == 1 else _SPECTRAL_SHARE_STRIDED):
        return spectral.convolve(padded, kernel, (h, w), tiling)
    if K**2 * C_in <= C_out:
        return _by_patches(padded, kernel, stride)
    if stride > 1:
        return _by_kernel_rows(padded, kernel, stride)
    if K == _ROWS_FOR_KERNEL and directly >= _ROWS_FROM:
        return _with_xla(x, kernel, pads)
    return _native(x, kernel, stride, pads)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _with_xla(x: Array, kernel: Array, pads: _Pads) -> Array:
    """Convolves with stride 1 by XLA; but for the gradient of the kernel."""
    return _native(x, kernel, 1, pads)


def _with_xla_fwd(x: Array, kernel: Array, pads: _Pads):
    return _with_xla(x, kernel, pads), (x, kernel)


def _with_xla_bwd(pads: _Pads, residuals, gradient: Array):
    x, kernel = residuals
    (dx,) = jax.vjp(lambda x: _native(x, kernel, 1, pads), x)[1](gradient)
    padded = jnp.pad(x, [(0, 0), *pads, (0, 0)])
    return dx, _kernel_gradient(padded, gradient, kernel.shape[0])


_with_xla.defvjp(_with_xla_fwd, _with_xla_bwd)


def _kernel_gradient(x: Array, gradient: Array, K: int) -> Array:
    """The gradient of a kernel with stride 1: one matrix product for each of its rows.

    XLA convolves with the gradient as a kernel of the image's size, which takes two to
    five times as long as the convolution itself.
    """
    B, H, _, C_in = x.shape
    h, w, C_out = gradient.shape[1:]
    most = max(1, _CHUNK_BYTES // (H * w * K * C_in * x.dtype.itemsize))
    size = max(n for n in range(1, min(most, B) + 1) if B % n == 0)
    wide = accumulation_dtype(x.dtype)

    def add_chunk(total: Array, chunk: tuple[Array, Array]):
        x, gradient = chunk
        patches = _materialized(
            jnp.concatenate([x[:, :, j : j + w] for j in range(K)], axis=-1)
        )
        # Transposed by itself: XLA:CPU is slow where both factors are summed over their
        # first axis.
        columns = _materialized(gradient.reshape(-1, C_out).T)
        rows = [
            jnp.matmul(
                columns,
                patches[:, i : i + h].reshape(-1, K * C_in),
                preferred_element_type=wide,
            )
            for i in range(K)
        ]
        return total + jnp.stack(rows), None

    x, gradient = (a.reshape(B // size, size, *a.shape[1:]) for a in (x, gradient))
    start = jnp.zeros((K, C_out, K * C_in), wide)
    total, _ = jax.lax.scan(add_chunk, start, (x, gradient))
    total = total.swapaxes(1, 2).reshape(K, K, C_in, C_out)
    return total.astype(x.dtype)


def _phases(x: Array, kernel: Array, stride: int) -> tuple[Array, Array]:
    """Makes channels of the pixels between strides, so that the stride becomes 1.

    Slices of pixels that lie side by side are several times faster.
    """
    sizes, K = x.shape[1:-1], kernel.shape[0]
    taps = -(-K // stride)
    counts = [output_size(size, K, stride) + taps - 1 for size in sizes]
    # Negative padding cuts off the pixels beyond the last result.
    ends = [n * stride - size for n, size in zip(counts, sizes, strict=True)]
    x = jax.lax.pad(
        x,
        jnp.zeros((), x.dtype),
        [(0, 0, 0), *((0, end, 0) for end in ends), (0, 0, 0)],
    )
    missing = [(0, taps * stride - K)] * len(sizes)
    kernel = jnp.pad(kernel, [*missing, (0, 0), (0, 0)])

    def split(array: Array, first: int, sizes: Sequence[int]) -> Array:
        shape = [number for size in sizes for number in (size, stride)]
        last = array.shape[first + len(sizes) :]
        array = array.reshape(*array.shape[:first], *shape, *last)
        axes = [first + 2 * i for i in range(len(sizes))]
        phases = [axis + 1 for axis in axes]
        rest = range(first + 2 * len(sizes), array.ndim)
        array = array.transpose(*range(first), *axes, *phases, *rest)
        channels = stride ** len(sizes) * last[0]
        return array.reshape(*array.shape[:first], *sizes, channels, *last[1:])

    return split(x, 1, counts), split(kernel, 0, [taps] * len(sizes))


def _by_patches(x: Array, kernel: Array, stride: int) -> Array:
    """Convolves by one matrix product of patches with the kernel.

    For few channels, such as an image's: the patches are no larger than the result.
    """
    x = _patches(x, kernel.shape[0], stride)
    y = jnp.matmul(
        x.reshape(-1, x.shape[-1]),
        kernel.reshape(-1, kernel.shape[-1]),
        preferred_element_type=accumulation_dtype(x.dtype),
    )
    return y.reshape(*x.shape[:-1], -1).astype(x.dtype)


def _patches(x: Array, K: int, stride: int) -> Array:
    """The pixels of each window as channels, ordered as in a kernel."""
    for axis in range(x.ndim - 2, 0, -1):
        size = output_size(x.shape[axis], K, stride, "VALID")
        span = stride * (size - 1) + 1
        slices = [jax.lax.slice_in_dim(x, i, i + span, stride, axis) for i in range(K)]
        # Not fused: XLA:CPU is slow at slices of slices.
        x = _materialized(jnp.concatenate(slices, axis=-1))
    return x


def _in_chunks(x: Array, kernel: Array) -> Array:
    """Convolves with stride 1 by patches, a few examples at a time.

    Their patches stay in the cache, in the gradient, too, which makes them anew.
    """
    B, K = len(x), kernel.shape[0]
    places = math.prod(output_size(size, K, 1) for size in x.shape[1:-1])
    most = _CHUNK_BYTES // (places * math.prod(kernel.shape[:-1]) * x.dtype.itemsize)
    size = max(n for n in range(1, max(1, min(most, B)) + 1) if B % n == 0)

    @jax.checkpoint
    def one_chunk(x: Array) -> Array:
        patches = _patches(x, K, 1)
        y = _product(patches.reshape(-1, patches.shape[-1]), matrix)
        return y.reshape(*patches.shape[:-1], -1)

    # Its gradient, a sum over the chunks, is not rounded in between.
    matrix = kernel.reshape(-1, kernel.shape[-1]).astype(accumulation_dtype(x.dtype))
    y = jax.lax.map(one_chunk, x.reshape(B // size, size, *x.shape[1:]))
    return y.reshape(B, *y.shape[2:])


@jax.custom_vjp
def _product(patches: Array, kernel: Array) -> Array:
    """Multiplies patches by a kernel of the accumulation dtype."""
    y = jnp.matmul(
        patches, kernel.astype(patches.dtype), preferred_element_type=kernel.dtype
    )
    return y.astype(patches.dtype)


def _product_fwd(patches: Array, kernel: Array):
    return _product(patches, kernel), (patches, kernel)


def _product_bwd(residuals, gradient: Array):
    patches, kernel = residuals
    # Transposed by itself: XLA:CPU is slow where both factors are summed over their
    # first axis.
    columns = _materialized(gradient.T)
    dkernel = jnp.matmul(columns, patches, preferred_element_type=kernel.dtype).T
    return _product(gradient, kernel.T), dkernel


_product.defvjp(_product_fwd, _product_bwd)


def _by_kernel_rows(x: Array, kernel: Array, stride: int) -> Array:
    """Convolves by matrix products of patches with single kernel rows.

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
