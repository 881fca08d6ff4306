"""capsjax: capsule networks in JAX and Flax."""
