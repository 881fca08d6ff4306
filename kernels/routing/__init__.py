"""Routing between capsules: the ops by name, and the squash that they use.

Import from here: ``routing.dynamic.route``, ``routing.uniform.route`` and so on are the
ops; the names of dynamic routing also stand here by themselves.
"""

from kernels.routing import (
    dynamic,
    em,
    inverted_attention,
    self_attention,
    self_routing,
    uniform,
    variational_bayes,
)
from kernels.routing.arguments import UnsupportedError
from kernels.routing.dynamic import (
    IMPLEMENTATIONS,
    WORKLOADS,
    Diagnosis,
    Workload,
    diagnose,
    route,
)
from kernels.routing.squash import exponential_squash, norm, squash

__all__ = [
    "IMPLEMENTATIONS",
    "WORKLOADS",
    "Diagnosis",
    "UnsupportedError",
    "Workload",
    "diagnose",
    "dynamic",
    "em",
    "exponential_squash",
    "inverted_attention",
    "norm",
    "route",
    "self_attention",
    "self_routing",
    "squash",
    "uniform",
    "variational_bayes",
]
