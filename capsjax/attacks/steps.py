"""Attacks that go step by step, with the loop on the host.

XLA's programs for CPUs take twenty times as long for a convolution within a loop as for
one outside of it. So a step is compiled, and not the loop; which also ends when nothing
changes any more. Within another compiled function, such as a step of adversarial
training, the loop is part of the program; a short one is written out.
"""

import abc
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from capsjax.attacks.base import Attacked, Found, Images, Keys, Labels

# Steps that are written out in a compiled function: more take long to compile.
_FEW = 10


class Problem(NamedTuple):
    """What an attack is to do.

    Attributes:
        attacked: the network.
        images: images in [0, 1].
        labels: their classes, or the targets.
        keys: random keys, one for each image.
        radius: radius of the balls, in units of the full range, [] float32; infinite
            for attacks without a bound.
    """

    attacked: Attacked
    images: Images
    labels: Labels
    keys: Keys
    radius: Float[Array, ""]


class Stepwise(abc.ABC):
    """An attack as a first state, a step, and what is found in the end.

    Attributes:
        traces: whether steps tell the objective.
    """

    traces: ClassVar[bool] = True

    @property
    @abc.abstractmethod
    def count(self) -> int:
        """The number of steps at most."""

    @abc.abstractmethod
    def begin(self, problem: Problem) -> Any:
        """The state before the first step."""

    @abc.abstractmethod
    def step(
        self, problem: Problem, number: Int[Array, ""], state: Any
    ) -> tuple[Any, Float[Array, " B"]]:
        """The next state, and the objective of each image.

        Args:
            problem: what the attack is to do.
            number: number of the step, from 0.
            state: the state.
        """

    @abc.abstractmethod
    def finished(self, state: Any) -> Bool[Array, ""]:
        """Whether further steps would change nothing that counts."""

    @abc.abstractmethod
    def result(self, problem: Problem, state: Any, trace: Float[Array, "T B"]) -> Found:
        """What has been found, after the last step."""

    def __call__(
        self,
        attacked: Attacked,
        images: Images,
        labels: Labels,
        keys: Keys,
        radius: Float[Array, ""] | None = None,
    ) -> Found:
        """Attacks images; the arguments are those of `Problem`."""
        radius = jnp.float32(jnp.inf) if radius is None else radius
        problem = Problem(attacked, images, labels, keys, radius)
        leaves = jax.tree.leaves(problem)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            return self._traced(problem)
        state, seen = _begin(self, problem), []
        for number in range(self.count):
            state, values, done = _step(self, problem, jnp.int32(number), state)
            seen.append(values)
            if done:
                break
        # What has ended stays as it is.
        seen += seen[-1:] * (self.count - len(seen))
        trace = jnp.stack(seen) if self.traces and seen else _no_trace(problem)
        return _result(self, problem, state, trace)

    def _traced(self, problem: Problem) -> Found:
        def step(state: Any, number: Array) -> tuple[Any, Array]:
            return self.step(problem, number, state)

        numbers = jnp.arange(self.count, dtype=jnp.int32)
        unroll = max(self.count, 1) if self.count <= _FEW else 1
        state, seen = jax.lax.scan(step, self.begin(problem), numbers, unroll=unroll)
        return self.result(problem, state, seen if self.traces else _no_trace(problem))


def _no_trace(problem: Problem) -> Float[Array, "T B"]:
    return jnp.zeros((0, len(problem.images)))


def _begin_of(attack: Stepwise, problem: Problem) -> Any:
    return attack.begin(problem)


def _step_of(attack: Stepwise, problem: Problem, number: Array, state: Any):
    state, values = attack.step(problem, number, state)
    return state, values, attack.finished(state)


def _result_of(attack: Stepwise, problem: Problem, state: Any, trace: Array) -> Found:
    return attack.result(problem, state, trace)


_begin = jax.jit(_begin_of, static_argnums=0)
_step = jax.jit(_step_of, static_argnums=0)
_result = jax.jit(_result_of, static_argnums=0)
