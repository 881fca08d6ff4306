"""Fused routing for Hopper GPUs, in Pallas; docs/routing_kernel.md explains it."""

from kernels.routing.dynamic.mosaic_gpu.op import route, unsupported

__all__ = ["route", "unsupported"]
