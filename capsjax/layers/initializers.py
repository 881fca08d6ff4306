"""How the parameters of capsule networks start."""

import dataclasses

import jax

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
