"""Dynamic routing, routing-by-agreement: the op and its implementations.

Import from here or from kernels.routing; the other files of this package are private to
it.

References:
    Sabour, Frosst and Hinton 2017, "Dynamic Routing Between Capsules".
"""

from kernels.routing.dynamic.api import IMPLEMENTATIONS, route
from kernels.routing.dynamic.diagnostics import Diagnosis, couplings, diagnose
from kernels.routing.dynamic.workloads import WORKLOADS, Workload

__all__ = [
    "IMPLEMENTATIONS",
    "WORKLOADS",
    "Diagnosis",
    "Workload",
    "couplings",
    "diagnose",
    "route",
]
