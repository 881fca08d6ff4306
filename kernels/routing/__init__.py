"""Routing-by-agreement: the op, its implementations, and the squash it uses.

Import from here; the other files of this package are private to it.
"""

from kernels.routing.api import IMPLEMENTATIONS, route
from kernels.routing.diagnostics import Diagnosis, diagnose
from kernels.routing.squash import norm, squash
from kernels.routing.workloads import WORKLOADS, Workload

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
