"""The devices of a run, and how a step is spread over them.

Data parallelism: every device holds all parameters and computes its share of the batch,
in the order of the devices. A step is written for one device's share; what it averages
over the examples, it averages over the devices with `mean`. All of it is one
`jax.shard_map`, so that no compiler decides what a device computes (it would have every
device run a kernel on the whole batch), or one `jax.pmap`.

The batch is the same for any number of devices, and so is what is random for an example
(see `example_indices`): one device, several, and several processes train alike.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from capsjax.config import Config
from capsjax.errors import UserError
from capsjax.layers import BATCH_AXIS


class Devices:
    """Devices that share the work of each step.

    Attributes:
        mode: ``"jit"`` or ``"pmap"``.
        count: how many, in all processes.
    """

    def __init__(self, devices: Sequence[jax.Device], mode: str = "jit"):
        """Takes the devices, those of one process beside each other."""
        self.mode = mode
        self.count = len(devices)
        self._mesh = Mesh(
            np.asarray(devices, dtype=object),
            (BATCH_AXIS,),
            axis_types=(AxisType.Auto,),
        )

    def rows(self, batch_size: int) -> slice:
        """Which rows of a batch this process feeds to its devices.

        Args:
            batch_size: B, of the whole batch; a multiple of the number of devices.
        """
        owners = [device.process_index for device in self._mesh.devices.flat]
        first, own = (
            count(jax.process_index()) for count in (owners.index, owners.count)
        )
        share = batch_size // self.count
        return slice(first * share, (first + own) * share)

    def replicate(self, tree: Any) -> Any:
        """Puts arrays, the same in all processes, on every device as a whole."""
        return jax.device_put(tree, NamedSharding(self._mesh, PartitionSpec()))

    def shard(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Puts this process's `rows` of a batch on its devices, each its share."""
        if self.mode == "pmap":
            own = len(self._mesh.local_devices)
            return {name: x.reshape(own, -1, *x.shape[1:]) for name, x in batch.items()}
        sharding = NamedSharding(self._mesh, PartitionSpec(BATCH_AXIS))
        return {
            name: jax.make_array_from_process_local_data(sharding, x)
            for name, x in batch.items()
        }

    def spread(
        self, step: Callable[[Any, Any], Any], *, donate: bool = False
    ) -> jax.stages.Wrapped:
        """Compiles a step for all devices.

        Args:
            step: a function of what every device holds as a whole and of one device's
                share of a batch. What it returns must be the same on all devices: a
                `mean`, a `gather`, or made from such.
            donate: whether the first argument's memory is used for the result.

        Returns:
            A function of what `replicate` and `shard` return.
        """
        donated = (0,) if donate else ()
        if self.mode == "pmap":
            return jax.pmap(
                step,
                BATCH_AXIS,
                in_axes=(None, 0),
                out_axes=None,
                devices=list(self._mesh.devices.flat),
                donate_argnums=donated,
            )
        # Without check_vma JAX adds no sums over the devices of its own to gradients.
        spread = jax.shard_map(
            step,
            mesh=self._mesh,
            in_specs=(PartitionSpec(), PartitionSpec(BATCH_AXIS)),
            out_specs=PartitionSpec(),
            check_vma=False,
        )
        return jax.jit(spread, donate_argnums=donated)

    def compile(
        self, step: jax.stages.Wrapped, state: Any, batch: Mapping[str, Any]
    ) -> Callable[[Any, Any], Any]:
        """Compiles a step from `spread` ahead of its first call, for these arguments.

        With pmap it is left to the first call: what pmap compiles ahead refuses the
        shares of a batch of several processes.
        """
        return step if self.mode == "pmap" else step.lower(state, batch).compile()


def alone(step: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """The step as one device does it for the whole batch, operation by operation."""
    by_share = jax.vmap(step, in_axes=(None, 0), out_axes=None, axis_name=BATCH_AXIS)

    def run(state: Any, batch: Mapping[str, Any]) -> Any:
        with jax.disable_jit():
            return by_share(state, {name: x[None] for name, x in batch.items()})

    return run


def choose(config: Config) -> Devices:
    """The devices that a run's config asks for.

    Raises:
        UserError: there are not so many, or they cannot share the batch.
    """
    devices = jax.devices()
    count = config.num_devices or len(devices)
    if count > len(devices):
        hint = "; --cpu_devices makes more of a CPU" if _on_cpu() else ""
        raise UserError(
            f"config.num_devices is {count}, but there are {len(devices)} "
            f"({devices[0].device_kind}){hint}"
        )
    if jax.process_count() > 1 and count < len(devices):
        raise UserError(
            f"config.num_devices is {count}, but {jax.process_count()} processes take "
            f"part with {len(devices)} devices; leave it 0 and start fewer processes"
        )
    if config.batch_size % count:
        nearest = max(round(config.batch_size / count), 1) * count
        raise UserError(
            f"config.batch_size is {config.batch_size}, the batch of all {count} "
            f"devices together, which they cannot share equally; choose a multiple of "
            f"{count} such as {nearest}, or another --config.num_devices"
        )
    return Devices(devices[:count], config.parallelism)


def mean(tree: Any) -> Any:
    """Inside a step: the mean of each array over the devices."""
    return jax.lax.pmean(tree, BATCH_AXIS)


def gather(tree: Any) -> Any:
    """Inside a step: the rows of all devices, in the order of the batch."""
    return jax.lax.all_gather(tree, BATCH_AXIS, tiled=True)


def example_indices(count: int) -> Int[Array, " count"]:
    """Inside a step: the places in the whole batch of this device's examples."""
    return jax.lax.axis_index(BATCH_AXIS) * count + jnp.arange(count)


def is_primary() -> bool:
    """Whether this is the process that writes the run's files and reports."""
    # To ask a lone process for its number would take up the GPU.
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def from_primary(tree: Any) -> Any:
    """The primary process's NumPy arrays, in all processes; all must call this."""
    return multihost_utils.broadcast_one_to_all(tree)


def join(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    *,
    heartbeat_timeout_s: int,
) -> None:
    """Makes this process one of several that train together.

    To be called before JAX sees a device. A process that dies ends the others, when
    they have not heard of it for a while.

    Args:
        coordinator: ``host:port`` of the first process; None, as the two others, where
            the cluster's environment says (Slurm, Kubernetes, MPI).
        num_processes: how many take part.
        process_id: which one this is, from 0.
        heartbeat_timeout_s: seconds after which a silent process counts as dead.

    Raises:
        UserError: the arguments do not fit together, the environment says nothing, or
            the other processes did not come.
    """
    given = [x is not None for x in (coordinator, num_processes, process_id)]
    if any(given) and not all(given):
        raise UserError(
            "--coordinator_address, --num_processes and --process_id belong together; "
            "give all three, or only --distributed where Slurm or Kubernetes tells them"
        )
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=heartbeat_timeout_s,
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(f"cannot start as one of several processes: {error}") from error


def leave_at_once(status: int) -> None:
    """Ends a process that others are waiting for, without waiting for them.

    An orderly end is agreed on by all processes: where one fails, it would be minutes
    before any of them ended. Returns if this process is the only one.
    """
    if jax.distributed.is_initialized() and jax.process_count() > 1:
        os._exit(status)


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"
