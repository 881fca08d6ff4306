"""Routing between capsules: the ops, and the squash that they use.

Import from here; the other files of this package are private to it.
"""

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
    "Workload",
    "diagnose",
    "norm",
    "route",
    "squash",
]
