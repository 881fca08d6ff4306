"""Imported once by the process from which `tests.launching.run` forks launchers."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"

import experiments.launch  # noqa: F401
