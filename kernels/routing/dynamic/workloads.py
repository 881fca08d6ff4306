"""Named sizes of the routing op, shared by its tests, its tuner and its benchmark."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float


class Workload(NamedTuple):
    """The op's sizes, except the batch's, and its options.

    Attributes:
        I: input capsules.
        P: dimensions of an input capsule.
        J: output capsules.
        Q: dimensions of an output capsule.
        leaky: see `kernels.routing.route`.
        num_iterations: r.
    """

    I: int
    P: int
    J: int
    Q: int
    leaky: bool = False
    num_iterations: int = 3

    @property
    def options(self) -> dict[str, Any]:
        """The options of `kernels.routing.route`."""
        return {"leaky": self.leaky, "num_iterations": self.num_iterations}

    def arguments(
        self, batch_size: int, dtype: DTypeLike, seed: int = 0
    ) -> tuple[Float[Array, "B I P"], Float[Array, "I J Q P"], Float[Array, "J Q"]]:
        """Inputs, weights and bias as large as in a trained network.

        Like squashed capsules, the inputs are shorter than 1. The weights give the
        total inputs of the first iteration lengths around 1, so that the coupling
        coefficients change.
        """
        rng = np.random.default_rng(seed)
        u = rng.normal(size=(batch_size, self.I, self.P))
        u *= 0.6 / np.linalg.norm(u, axis=-1, keepdims=True)
        W = rng.normal(size=(self.I, self.J, self.Q, self.P))
        W *= 2 * self.J / np.sqrt(self.I * self.Q)
        bias = 0.1 * rng.normal(size=(self.J, self.Q))
        return jnp.asarray(u, dtype), jnp.asarray(W, dtype), jnp.asarray(bias, dtype)


# The networks are those of experiments/configs and of the paper's sections 5 to 7.
WORKLOADS: Mapping[str, Workload] = {
    "mnist": Workload(I=6 * 6 * 32, P=8, J=10, Q=16),
    "multimnist": Workload(I=10 * 10 * 32, P=8, J=10, Q=16),
    "affnist": Workload(I=12 * 12 * 32, P=8, J=10, Q=16),
    "smallnorb": Workload(I=8 * 8 * 32, P=8, J=5, Q=16),
    "cifar10": Workload(I=12 * 12 * 64, P=8, J=10, Q=16, leaky=True),
    "classes100": Workload(I=6 * 6 * 32, P=8, J=100, Q=16),
    "wide": Workload(I=6 * 6 * 32, P=8, J=10, Q=32),
    "digits": Workload(I=4 * 4 * 16, P=8, J=10, Q=16),
    "odd": Workload(I=77, P=5, J=7, Q=6, num_iterations=2),
}
