"""The devices of a run, and the distribution of a step over them.

Data parallelism: every device holds all parameters and computes its share of the batch,
in the order of the devices. A step is written for one device's share; means over the
examples are also taken over the devices, with `mean`. The whole step is one
`jax.shard_map`, so that the compiler does not decide what a device computes (it would
make every device run a kernel on the whole batch), or one `jax.pmap`.

The batch and each example's random numbers (see `example_indices`) do not depend on the
number of devices, so that any number of devices and processes gives the same training.
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
        count: number of devices, in all processes.
    """

    def __init__(self, devices: Sequence[jax.Device], mode: str = "jit"):
        """Takes the devices; those of one process must be adjacent."""
        self.mode = mode
        self.count = len(devices)
        grid = np.asarray(devices, dtype=object)
        self._mesh = Mesh(grid, (BATCH_AXIS,), axis_types=(AxisType.Auto,))

    def rows(self, batch_size: int) -> slice:
        """The rows of a batch that this process feeds to its devices.

        Args:
            batch_size: size B of the whole batch; a multiple of the number of devices.
        """
        owners = [device.process_index for device in self._mesh.devices.flat]
        first, share = owners.index(jax.process_index()), batch_size // self.count
        own = owners.count(jax.process_index())
        return slice(first * share, (first + own) * share)

    def replicate(self, tree: Any) -> Any:
        """Copies whole arrays, equal in all processes, to every device."""
        return jax.device_put(tree, NamedSharding(self._mesh, PartitionSpec()))

    def shard(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Distributes this process's `rows` of a batch over its devices."""
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
            step: function of replicated arrays and of one device's share of a batch.
                Its results must be equal on all devices: a `mean`, a `gather`, or made
                from such.
            donate: whether the first argument's memory is reused for the result.

        Returns:
            A function of the results of `replicate` and `shard`.
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
        # Without check_vma, JAX does not add sums over the devices to gradients.
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

        With pmap the first call compiles: a function that pmap compiles ahead refuses a
        batch that several processes share.
        """
        return step if self.mode == "pmap" else step.lower(state, batch).compile()


def alone(step: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """The step on one device for the whole batch, operation by operation."""
    by_share = jax.vmap(step, in_axes=(None, 0), out_axes=None, axis_name=BATCH_AXIS)

    def run(state: Any, batch: Mapping[str, Any]) -> Any:
        with jax.disable_jit():
            return by_share(state, {name: x[None] for name, x in batch.items()})

    return run


def choose(config: Config) -> Devices:
    """Returns the devices that a run's config asks for.

    Raises:
        UserError: there are fewer devices, or they cannot share the batch equally.
    """
    devices = jax.devices()
    count = config.num_devices or len(devices)
    if count > len(devices):
        on_cpu = jax.default_backend() == "cpu"
        hint = "; --cpu_devices divides a CPU into more" if on_cpu else ""
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
    """True in the process that writes the run's files and reports."""
    # Asking a lone process for its index would reserve the GPU.
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def from_primary(tree: Any) -> Any:
    """Broadcasts the primary process's NumPy arrays; all processes must call this."""
    return multihost_utils.broadcast_one_to_all(tree)


def join(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    *,
    heartbeat_timeout_s: int,
) -> None:
    """Makes this process one of several that train together.

    Must be called before JAX sees a device. A process that dies ends the others after
    the heartbeat timeout.

    Args:
        coordinator: ``host:port`` of the first process; None, like the next two, if the
            cluster's environment tells it (Slurm, Kubernetes, MPI).
        num_processes: number of processes.
        process_id: index of this process, from 0.
        heartbeat_timeout_s: seconds after which a silent process is considered dead.

    Raises:
        UserError: the arguments do not fit together, the environment does not tell
            them, or the other processes did not connect.
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
    """Ends this process without waiting for the others; returns if it is the only one.

    All processes agree on an orderly end: if one fails, the others would take minutes
    to end.
    """
    if jax.distributed.is_initialized() and jax.process_count() > 1:
        os._exit(status)
