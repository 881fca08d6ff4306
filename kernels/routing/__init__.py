"""Routing between capsules: the ops by name, and the squash that they use.

Import from here: ``routing.dynamic.route`` and ``routing.uniform.route`` are the ops;
the names of dynamic routing also stand here by themselves.
"""

from kernels.routing import dynamic, uniform
from kernels.routing.arguments import UnsupportedError
from kernels.routing.dynamic import (
    IMPLEMENTATIONS,
    WORKLOADS,
    Diagnosis,
    Workload,
    diagnose,
    route,
)
from kernels.routing.squash import norm, squash

__all__ = [
    "IMPLEMENTATIONS",
    "WORKLOADS",
    "Diagnosis",
    "UnsupportedError",
    "Workload",
    "diagnose",
    "dynamic",
    "norm",
    "route",
    "squash",
    "uniform",
]
