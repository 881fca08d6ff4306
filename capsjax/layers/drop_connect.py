"""DropConnect: a dense layer that loses connections in training, others each time."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from capsjax.layers.activations import relu
from kernels.dtypes import accumulation_dtype

# Below any variance that counts: a root of zero would have an infinite gradient.
_LEAST_VARIANCE = 1e-12


class DropConnect(nnx.Module):
    """A dense layer with ReLU, in which single connections are dropped.

    In training, ``relu((M * W) v)`` with a mask M of independent zeros and ones for
    each example. Otherwise, the mean of that over the masks, where the sum of a unit
    counts as Gaussian: with a share p of the connections kept, it has mean ``p W v``
    and variance ``p (1 - p) (W * W) (v * v)``. The paper draws samples of the Gaussian;
    here the mean of its ReLU is its integral, which many samples tend to and which
    needs no random numbers. The bias is the weight of one more connection, of a unit
    that is 1.

    Attributes:
        kernel: [n_in, n_out] float32.
        bias: [n_out] float32.
        rate: share 1 - p of the connections that are dropped.
        place: number of this layer among those of a network that share the examples'
            keys.

    References:
        Wan, Zeiler, Zhang, LeCun and Fergus 2013, "Regularization of Neural Networks
        using DropConnect", section 3.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        rate: float,
        place: int,
        *,
        kernel_init: jax.nn.initializers.Initializer,
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(kernel_init(rngs.params(), (n_in, n_out), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(n_out))
        self.rate = rate
        self.place = place

    def __call__(
        self, x: Float[Array, "B n_in"], keys: Key[Array, " B"] | None
    ) -> Float[Array, "B n_out"]:
        """Drops where keys are given, one for each example; else the mean over masks.

        The masks of a batch take B times the bytes of the kernel.
        """
        weights = jnp.concatenate([self.kernel[...], self.bias[...][None]])
        x = jnp.concatenate([x, jnp.ones_like(x[:, :1])], axis=1)
        if keys is None:
            return self._mean_over_masks(x, weights)

        def of_one(x: Array, key: Array) -> Array:
            own = jax.random.fold_in(key, self.place)
            kept = jax.random.bernoulli(own, 1 - self.rate, weights.shape)
            return x @ jnp.where(kept, weights, jnp.zeros((), weights.dtype))

        return relu(jax.vmap(of_one)(x, keys))

    def _mean_over_masks(self, x: Array, weights: Array) -> Array:
        dtype = accumulation_dtype(x.dtype)
        wide, weights = x.astype(dtype), weights.astype(dtype)
        mean = (1 - self.rate) * (wide @ weights)
        variance = self.rate * (1 - self.rate) * (wide**2 @ weights**2)
        return mean_relu_of_gaussian(mean, variance).astype(x.dtype)


def mean_relu_of_gaussian(
    mean: Float[Array, "*n"], variance: Float[Array, "*n"]
) -> Float[Array, "*n"]:
    """The mean of ``max(u, 0)`` over a Gaussian u.

    ``mean Phi(z) + sd phi(z)`` with ``z = mean / sd``, where phi is the density of the
    standard normal distribution and Phi its integral.
    """
    deviation = jnp.sqrt(jnp.maximum(variance, _LEAST_VARIANCE))
    z = mean / deviation
    return mean * jax.scipy.special.ndtr(z) + deviation * jax.scipy.stats.norm.pdf(z)
