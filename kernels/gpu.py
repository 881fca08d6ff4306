"""Which GPU there is, and what is missing, in words."""

import jax

# `with ahead_of_time("NVIDIA H200"):` traces for that device, on a machine without it.
# JAX knows of it, so that nothing traced outside is taken for what is traced inside.
ahead_of_time = jax.make_user_context(default_value=None)


def device_kind() -> str:
    """What computations run on: a name such as ``"NVIDIA H200"`` or ``"cpu"``."""
    return ahead_of_time.value or jax.devices()[0].device_kind


def interpreted() -> bool:
    """Whether GPU kernels run in an interpreter, since there is only a CPU."""
    return not ahead_of_time.value and jax.default_backend() == "cpu"


def without_hopper() -> str | None:
    """Why kernels for Hopper GPUs cannot run here, or None.

    A machine without an accelerator is no reason: there they are interpreted.
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
