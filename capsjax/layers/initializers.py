"""Initial values of the parameters of capsule networks."""

import dataclasses

import jax

Initializer = jax.nn.initializers.Initializer


@dataclasses.dataclass(frozen=True)
class Initializers:
    """Initializers of a CapsNet, by layer."""

    conv1: Initializer
    primary: Initializer
    routed: Initializer
    dense: Initializer
    bias: Initializer


INITIALIZERS = {
    # The paper does not say; these are common defaults. The transformation matrices do
    # not have a usual fan-in (the coupling coefficients divide it), so they take the
    # released code's scale.
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
