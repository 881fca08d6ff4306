"""The provenance of results (versions, device, commit), and hashes of parameters."""

import datetime
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

import jax
import numpy as np

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def environment() -> dict[str, Any]:
    """Returns versions, device, commit, command and time of this process."""
    devices = jax.devices()
    return {
        "command": [os.path.basename(sys.executable), *sys.orig_argv[1:]],
        "commit": commit(),
        "device": devices[0].device_kind,
        "num_devices": len(devices),
        "platform": devices[0].platform,
        "cpu": _cpu_name(),
        "num_cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def commit() -> str:
    """Returns the commit, with ``-dirty`` if tracked files differ; or "unknown"."""
    git = ["git", "-C", str(pathlib.Path(__file__).parent)]
    try:
        described = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.stdout.strip()


def fingerprint(params: Any) -> dict[str, Any]:
    """Returns numbers to compare the parameters of two runs.

    These are ``params_l2``, the Euclidean norm over all parameters, summed in float64;
    and ``params_sha256``, see `sha256`.
    """
    square = sum(
        float(np.sum(np.square(leaf, dtype=np.float64)))
        for leaf in jax.tree.leaves(params)
    )
    return {"params_l2": square**0.5, "params_sha256": sha256(params)}


def sha256(tree: Any) -> str:
    """Hashes the names, shapes, dtypes and bytes of arrays in order of their names."""
    digest = hashlib.sha256()
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    for path, leaf in sorted(leaves, key=lambda item: jax.tree_util.keystr(item[0])):
        array = np.asarray(leaf)
        name = jax.tree_util.keystr(path)
        digest.update(f"{name} {array.shape} {array.dtype}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
