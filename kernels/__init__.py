"""Compute kernels: JAX ops that know nothing of models, data or training."""
