"""Convolution by discrete Fourier transforms, for large kernels on a CPU.

A transform turns the convolution of an n x n tile into one product for each frequency,
and the sum over channels into one matrix product for each (Mathieu, Henaff and LeCun,
"Fast Training of Convolutional Networks through FFTs", 2014). CapsNet's 9x9 convolution
of primary capsules needs a third of the operations that way, and no matrix of patches.

Written out, the result is ``R^T ((K kernel) (X images))`` with three constant matrices
from pixels to planes. A frequency and its conjugate are one complex number, and complex
products take three real ones (Gauss), so 10 x 10 pixels make 148 planes. The transforms
are dense: for this few pixels a matrix product is the fastest. Gradients take the same
matrices in other places.

With stride s the image is s^2 images, one for each phase of the pixels, whose
convolutions with stride 1 are added up. Images are cut into tiles that overlap by the
kernel's size minus one.

Everything runs over blocks of images and chunks of input channels, whose planes stay in
a CPU's cache: they are computed, multiplied and discarded. The gradient saves only its
arguments and transforms them again.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from kernels.dtypes import accumulation_dtype

# Bytes of the planes of a block's results, to which all channels are added.
_BLOCK_BYTES = 32 * 2**20
# Channels in a chunk, if these divide them: enough for efficient matrix products, few
# enough that a chunk's planes fit into the cache beside the results'.
_CHUNK_CHANNELS = range(128, 31, -1)

# XLA:CPU multiplies matrices far more slowly when it has fused their computation.
_computed = jax.lax.optimization_barrier


class Tiling(NamedTuple):
    """The division of images into tiles for the transforms.

    Attributes:
        stride: the convolution's stride in pixels, along both axes.
        taps: pixels of the kernel along one axis, in one phase.
        outputs: pixels of the result along one axis, from one tile.
        tiles: number of tiles along (H, W).
    """

    stride: int
    taps: int
    outputs: int
    tiles: tuple[int, int]

    @property
    def size(self) -> int:
        """Pixels of a tile along one axis, in one phase."""
        return self.outputs + self.taps - 1

    @property
    def planes(self) -> int:
        """Real products for each tile and pair of channels."""
        pixels = self.size**2
        real = 1 if self.size % 2 else 4  # Real-valued frequencies.
        return real + 3 * (pixels - real) // 2

    @property
    def phase_size(self) -> tuple[int, int]:
        """Pixels (H, W) of one phase of an image that consists of whole tiles."""
        h, w = (count * self.outputs + self.taps - 1 for count in self.tiles)
        return h, w


def plan(
    output_size: tuple[int, int],
    kernel_size: int,
    stride: int,
    batch_size: int,
    channels: tuple[int, int],
) -> tuple[Tiling, int]:
    """Finds the tiling that needs the fewest operations.

    Args:
        output_size: (h, w), the pixels of the result.
        kernel_size: pixels of the kernel along one axis.
        stride: the stride in pixels, along both axes.
        batch_size: number of images.
        channels: (C_in, C_out).

    Returns:
        The tiling, and the additions and multiplications of its forward pass.
    """
    taps = -(-kernel_size // stride)
    C_in, C_out = stride**2 * channels[0], channels[1]

    def operations(tiling: Tiling) -> int:
        tiles = batch_size * tiling.tiles[0] * tiling.tiles[1]
        pixels = tiling.size**2
        of_one_plane = (
            tiles * C_in * C_out
            + pixels * tiles * C_in
            + taps**2 * C_in * C_out
            + tiling.outputs**2 * tiles * C_out
        )
        return 2 * tiling.planes * of_one_plane

    tilings = (
        Tiling(stride, taps, m, (-(-output_size[0] // m), -(-output_size[1] // m)))
        for m in range(1, max(output_size) + 1)
    )
    return min(((tiling, operations(tiling)) for tiling in tilings), key=lambda x: x[1])


def convolve(
    x: Float[Array, "B H W C_in"],
    kernel: Float[Array, "K K C_in C_out"],
    output_size: tuple[int, int],
    tiling: Tiling,
) -> Float[Array, "B h w C_out"]:
    """A VALID convolution, by tiles.

    Args:
        x: images or features, channels last.
        kernel: square kernel, dtype of ``x``.
        output_size: (h, w), the pixels of the result.
        tiling: the tiling that `plan` found.

    Returns:
        Features of the dtype of ``x``; sums are taken in float32, in float64 for
        float64. Reverse-mode gradients only.
    """
    B, H, W, C_in = x.shape
    s, t, m, (Th, Tw) = tiling
    images = max(1, _BLOCK_BYTES // (4 * tiling.planes * Th * Tw * kernel.shape[3]))
    blocks = -(-B // images)
    images = -(-B // blocks)
    h, w = tiling.phase_size
    # Negative padding cuts off the pixels beyond the tiles' last result.
    pads = [(0, blocks * images - B), (0, s * h - H), (0, s * w - W), (0, 0)]
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), [(*pad, 0) for pad in pads])
    x = x.reshape(blocks, images, h, s, w, s, C_in)
    missing = s * t - kernel.shape[0]
    kernel = jnp.pad(kernel, [(0, missing), (0, missing), (0, 0), (0, 0)])
    kernel = kernel.reshape(t, s, t, s, *kernel.shape[2:])
    y = _convolve_blocks(x, kernel, tiling)
    y = y.reshape(blocks, m, m, Tw, Th, images, -1).transpose(0, 5, 4, 1, 3, 2, 6)
    y = y.reshape(blocks * images, Th * m, Tw * m, -1)
    return y[:B, : output_size[0], : output_size[1]]


# x is [blocks, images, h, s, w, s, C_in], the kernel [t, s, t, s, C_in, C_out], and the
# result [blocks, m * m, tiles, C_out].
@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve_blocks(x: Array, kernel: Array, tiling: Tiling) -> Array:
    return _convolve_blocks_fwd(x, kernel, tiling)[0]


def _convolve_blocks_fwd(x: Array, kernel: Array, tiling: Tiling):
    matrices = _matrices(tiling, x.dtype)
    chunks = _Chunks.of(kernel)

    def one_block(x: Array) -> Array:
        def add_chunk(planes: Array, index: Array):
            tiles = _to_tiles(chunks.of_images(x, index), tiling)
            x_planes = _transform(matrices.images, tiles)
            k_planes = _transform(matrices.kernel, chunks.of_kernel(kernel, index))
            product = jnp.einsum("pbc,pcd->pbd", x_planes, k_planes)
            return planes + _computed(product), None

        num_tiles = x.shape[0] * tiling.tiles[0] * tiling.tiles[1]
        shape = (tiling.planes, num_tiles, kernel.shape[-1])
        start = jnp.zeros(shape, matrices.results.dtype)
        planes, _ = jax.lax.scan(add_chunk, start, jnp.arange(chunks.number))
        return _transform(matrices.results.T, planes).astype(x.dtype)

    return jax.lax.map(one_block, x), (x, kernel)


def _convolve_blocks_bwd(tiling: Tiling, residuals, gradient: Array):
    x, kernel = residuals
    matrices = _matrices(tiling, x.dtype)
    chunks = _Chunks.of(kernel)

    def one_block(dkernel: Array, x_and_gradient: tuple[Array, Array]):
        x, gradient = x_and_gradient
        y_planes = _transform(matrices.results, gradient)
        yT_planes = _transform(matrices.results, gradient.swapaxes(1, 2))

        def one_chunk(gradients: tuple[Array, Array], index: Array):
            dx, dkernel = gradients
            # Tiles overlap: their gradients are added up before they are rounded.
            tiles, from_tiles = jax.vjp(
                functools.partial(_to_tiles, tiling=tiling),
                chunks.of_images(x, index).astype(y_planes.dtype),
            )
            x_planes = _transform(matrices.images, tiles)
            k_planes = _transform(matrices.kernel, chunks.of_kernel(kernel, index))
            dx_planes = jnp.einsum("pbd,pcd->pbc", y_planes, k_planes)
            # XLA:CPU is slow where both matrices are summed over their first axis.
            dk_planes = jnp.einsum("pdb,pbc->pdc", yT_planes, x_planes)
            (dx_chunk,) = from_tiles(_transform(matrices.images.T, dx_planes))
            dk_chunk = _transform(matrices.kernel.T, dk_planes).swapaxes(1, 2)
            dx = chunks.put_images(dx, dx_chunk.astype(dx.dtype), index)
            return (dx, chunks.add_kernel(dkernel, dk_chunk, index)), None

        start = (jax.lax.empty(x.shape, x.dtype), dkernel)
        (dx, dkernel), _ = jax.lax.scan(one_chunk, start, jnp.arange(chunks.number))
        return dkernel, dx

    start = jnp.zeros(kernel.shape, matrices.kernel.dtype)
    dkernel, dx = jax.lax.scan(one_block, start, (x, gradient))
    return dx, dkernel.astype(kernel.dtype)


_convolve_blocks.defvjp(_convolve_blocks_fwd, _convolve_blocks_bwd)


class _Chunks(NamedTuple):
    """The input channels of each phase of the pixels, in chunks.

    Attributes:
        stride: number of phases along one axis.
        per_phase: number of chunks in one phase.
        channels: number of channels in a chunk.
    """

    stride: int
    per_phase: int
    channels: int

    @classmethod
    def of(cls, kernel: Float[Array, "t s t s C_in C_out"]) -> "_Chunks":
        C_in = kernel.shape[4]
        channels = next((c for c in _CHUNK_CHANNELS if C_in % c == 0), C_in)
        return cls(kernel.shape[1], C_in // channels, channels)

    @property
    def number(self) -> int:
        return self.stride**2 * self.per_phase

    def of_images(
        self, x: Float[Array, "b h s w s C_in"], index: Array
    ) -> Float[Array, "b h w c"]:
        b, h, _, w, _, _ = x.shape
        shape = (b, h, 1, w, 1, self.channels)
        chunk = jax.lax.dynamic_slice(x, self._in_images(index), shape)
        return chunk.reshape(b, h, w, self.channels)

    def put_images(self, x: Array, chunk: Array, index: Array) -> Array:
        b, h, w, c = chunk.shape
        chunk = chunk.reshape(b, h, 1, w, 1, c)
        return jax.lax.dynamic_update_slice(x, chunk, self._in_images(index))

    def of_kernel(
        self, kernel: Float[Array, "t s t s C_in C_out"], index: Array
    ) -> Float[Array, "t*t c C_out"]:
        t, _, _, _, _, C_out = kernel.shape
        shape = (t, 1, t, 1, self.channels, C_out)
        chunk = jax.lax.dynamic_slice(kernel, self._in_kernel(index), shape)
        return chunk.reshape(t * t, self.channels, C_out)

    def add_kernel(self, kernel: Array, chunk: Array, index: Array) -> Array:
        t = kernel.shape[0]
        chunk = (self.of_kernel(kernel, index) + chunk).reshape(
            t, 1, t, 1, *chunk.shape[1:]
        )
        return jax.lax.dynamic_update_slice(kernel, chunk, self._in_kernel(index))

    def _in_images(self, index: Array) -> tuple[Array | int, ...]:
        row, column, first = self._first(index)
        return 0, 0, row, 0, column, first

    def _in_kernel(self, index: Array) -> tuple[Array | int, ...]:
        row, column, first = self._first(index)
        return 0, row, 0, column, first, 0

    def _first(self, index: Array) -> tuple[Array, Array, Array]:
        phase, chunk = jnp.divmod(index, self.per_phase)
        return *jnp.divmod(phase, self.stride), chunk * self.channels


def _to_tiles(
    x: Float[Array, "b h w c"], tiling: Tiling
) -> Float[Array, "n*n tiles c"]:
    n, m, (Th, Tw) = tiling.size, tiling.outputs, tiling.tiles
    x = jnp.stack([x[:, i * m : i * m + n] for i in range(Th)])
    x = jnp.stack([x[:, :, :, i * m : i * m + n] for i in range(Tw)])
    return x.transpose(3, 4, 0, 1, 2, 5).reshape(n * n, -1, x.shape[-1])


def _transform(
    matrix: Float[Array, "out in"], x: Float[Array, "in b c"]
) -> Float[Array, "out b c"]:
    """A linear map of the first axis, in the dtype of the matrix."""
    x = _computed(x.astype(matrix.dtype))
    return _computed(jnp.einsum("pk,kbc->pbc", matrix, x))


class _Matrices(NamedTuple):
    """From the pixels of a tile, of the kernel and of a tile's result to the planes."""

    images: Array
    kernel: Array
    results: Array


def _matrices(tiling: Tiling, dtype: DTypeLike) -> _Matrices:
    """The transforms, in the accumulation dtype of the images' dtype.

    With x and k the transforms of a tile and of the kernel (conjugated, because the
    convolution is a correlation), the real result is a sum over frequencies f of
    ``Re(x_f k_f v_f)``. Of two conjugate frequencies one is left out and the other
    counted twice. For x = a + bi and k = c + di,

        Re(x k) = c (a + b) - b (c + d),    Im(x k) = c (a + b) + a (d - c).
    """
    n, t, m = tiling.size, tiling.taps, tiling.outputs
    frequencies = np.indices((n, n)).reshape(2, -1).T
    number, conjugate = (f @ (n, 1) for f in (frequencies, -frequencies % n))

    def waves(kept: np.ndarray, size: int, sign: int) -> np.ndarray:
        pixels = np.indices((size, size)).reshape(2, -1)
        return np.exp(sign * 2j * np.pi / n * (frequencies[kept] @ pixels))

    real, double = number == conjugate, number < conjugate
    x, k, v = waves(double, n, -1), waves(double, t, 1), waves(double, m, 1)
    v = 2 / n**2 * v
    images = [waves(real, n, -1).real, x.real + x.imag, x.imag, x.real]
    kernel = [waves(real, t, 1).real, k.real, k.real + k.imag, k.imag - k.real]
    results = [waves(real, m, 1).real / n**2, v.real - v.imag, -v.real, -v.imag]
    return _Matrices(
        *(
            jnp.asarray(np.concatenate(parts), accumulation_dtype(dtype))
            for parts in (images, kernel, results)
        )
    )
