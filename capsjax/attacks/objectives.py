"""What attacks raise: functions of a network's scores and labels.

The length of a capsule lies in [0, 1), and the margin loss is flat once all lengths are
beyond its margins: an attack on it sees a gradient of exactly zero there. The logits of
lengths are never flat: a squashed capsule's is ``log |s|^2`` of its total input s,
before the squash. Different objectives break different images; the strongest counts.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from capsjax import losses
from capsjax.attacks.base import Labels, Scores
from capsjax.losses import base as kinds
from capsjax.losses.cross_entropy import Softmax

Name = Literal["cross_entropy", "logit_margin", "margin", "loss", "probability"]
NAMES: tuple[Name, ...] = (
    "cross_entropy",
    "logit_margin",
    "margin",
    "loss",
    "probability",
)

ObjectiveOfScores = Callable[[Scores, Labels], Float[Array, " B"]]

# The smallest difference to 1 that float32 has near 1, and as small a length.
_LEAST = 2.0**-24


def logits(scores: Scores, kind: kinds.Scores) -> Scores:
    """Scores as logits, in the same order.

    ``log(p / (1 - p))`` of lengths and activations p. Of a capsule that
    `kernels.routing.squash` has squashed, this is ``log |s|^2``.

    Args:
        scores: the network's scores.
        kind: their kind.
    """
    if kind == "logits":
        return scores
    inside = jnp.clip(scores, _LEAST, 1 - _LEAST)
    return jnp.log(inside) - jnp.log1p(-inside)


def margin(scores: Scores, labels: Labels) -> Float[Array, " B"]:
    """The largest score of another class less that of the label's class."""
    own = losses.presence(labels, scores.shape[1], scores.dtype) > 0
    others = jnp.max(jnp.where(own, -jnp.inf, scores), axis=1)
    return others - jnp.sum(jnp.where(own, scores, 0.0), axis=1)


def cross_entropy(scores: Scores, labels: Labels) -> Float[Array, " B"]:
    """The cross entropy of a softmax over logits."""
    own = losses.presence(labels, scores.shape[1], scores.dtype) > 0
    return -jnp.sum(jnp.where(own, jax.nn.log_softmax(scores), 0.0), axis=1)


def of_name(
    name: Name,
    kind: kinds.Scores,
    loss: losses.Config,
    *,
    targeted: bool = False,
    step: Int[Array, ""] | int = 0,
) -> ObjectiveOfScores:
    """The objective of a name, from a network's scores and labels.

    Args:
        name: ``"loss"``, the training's loss of the scores; ``"margin"``, of the scores
            as they are; ``"logit_margin"``, of their logits; ``"cross_entropy"``, of
            their logits; or ``"probability"``, less that of the label's class: by the
            softmax, or the length or activation of its capsule.
        kind: kind of the scores.
        loss: the training's loss.
        targeted: whether the labels are the attack's targets; then the negative.
        step: number of training steps taken, for losses that are annealed.

    Raises:
        ValueError: there is no such objective.
    """
    if name not in NAMES:
        raise ValueError(f"no objective {name!r}; known: {', '.join(NAMES)}")

    def objective(scores: Scores, labels: Labels) -> Float[Array, " B"]:
        if name == "loss":
            value = loss.classification(scores, labels, step=step, train=False)
        elif name == "margin":
            value = margin(scores, labels)
        elif name == "logit_margin":
            value = margin(logits(scores, kind), labels)
        elif name == "cross_entropy":
            value = cross_entropy(logits(scores, kind), labels)
        else:
            shares = jax.nn.softmax(scores) if kind == "logits" else scores
            own = losses.presence(labels, scores.shape[1], scores.dtype)
            value = -jnp.sum(own * shares, axis=1)
        return -value if targeted else value

    return objective


def for_gradients(kind: kinds.Scores, loss: losses.Config) -> tuple[Name, ...]:
    """The objectives to try for scores of a kind, no two of which are the same.

    The margin of logits comes first: in float32 the gradient of a cross entropy is
    exactly zero once the network is sure.

    Args:
        kind: kind of the scores.
        loss: the training's loss.
    """
    if kind != "logits":
        return ("logit_margin", "cross_entropy", "margin", "loss")
    own: tuple[Name, ...] = () if loss.name == Softmax.name else ("loss",)
    return ("logit_margin", "cross_entropy", *own)
