"""The GPU that kernels run on, and the reasons why they cannot."""

import jax

# `with ahead_of_time("NVIDIA H200"):` traces for that device, on a machine without it.
# It is part of JAX's cache key, so traces from outside are not reused inside.
ahead_of_time = jax.make_user_context(default_value=None)


def device_kind() -> str:
    """The device's name, such as ``"NVIDIA H200"`` or ``"cpu"``."""
    return ahead_of_time.value or jax.devices()[0].device_kind


def interpreted() -> bool:
    """Returns whether GPU kernels run in an interpreter, for lack of a GPU."""
    return not ahead_of_time.value and jax.default_backend() == "cpu"


def without_hopper() -> str | None:
    """Returns the reason why kernels for Hopper GPUs cannot run here, or None.

    On a machine without an accelerator they can: they are interpreted there.
    """
    if ahead_of_time.value or interpreted():
        return None
    device = jax.devices()[0]
    if device.platform != "gpu":
        return f"the device is a {device.platform}, not an NVIDIA GPU"
    capability = str(getattr(device, "compute_capability", "unknown"))
    if not capability.startswith("9."):
        return (
            f"{device.device_kind} has compute capability {capability}, and the "
            "kernels use matrix instructions that only 9.0 (H100, H200) has"
        )
    return None
