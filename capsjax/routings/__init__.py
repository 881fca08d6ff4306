"""Routing algorithms as plug-ins, by name.

To add one: an op in `kernels.routing`, a file here with its config and module, and a
line in `ROUTINGS`.
"""

from collections.abc import Mapping
from types import MappingProxyType

from capsjax.routings import (
    dynamic,
    em,
    inverted_attention,
    self_attention,
    self_routing,
    uniform,
    variational_bayes,
)
from capsjax.routings.base import Capsules, Config, Routing, Sizes, Transform

__all__ = ["ROUTINGS", "Capsules", "Config", "Routing", "Sizes", "Transform"]

ROUTINGS: Mapping[str, type[Config]] = MappingProxyType(
    {
        config.name: config
        for config in (
            dynamic.Config,
            em.Config,
            inverted_attention.Config,
            self_attention.Config,
            self_routing.Config,
            uniform.Config,
            variational_bayes.Config,
        )
    }
)
