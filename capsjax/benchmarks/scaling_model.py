"""What a train step costs on up to a thousand GPUs, on paper.

A lower bound, from what the step must do. It computes (products on tensor cores, the
rest on the others), reads and writes (operands and results of products, and the
optimizer's state), and sums its gradients over the devices. A device computes and moves
data at the same time; sums of gradients go on beside the backward pass, which is two
thirds of the step. No program reaches all of this; what the bound shows is which of the
three limits a network, and when.

References:
    Williams, Waterman and Patterson 2009, "Roofline"; Patarasuk and Yuan 2009,
    "Bandwidth Optimal All-reduce Algorithms for Clusters of Workstations"; data sheets
    of the H100 and H200 (SXM).
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from flax import nnx

from capsjax.benchmarks import operations
from capsjax.benchmarks.operations import Operations
from capsjax.benchmarks.programs import Problem
from capsjax.benchmarks.routing import PEAKS, Peak
from capsjax.runs import results
from capsjax.runs.results import Row
from capsjax.training import parallel
from capsjax.training import step as train_step

BEGIN = "<!-- scaling: written by python -m experiments.scaling_model -->"
END = "<!-- end of scaling -->"

DEVICES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
BATCHES = (16, 128, 1024)
"""Images on each device."""

DTYPES = ("float32", "bfloat16")

# Share of a step in which gradients come, and can be summed up.
_BACKWARD = 2 / 3
# Two sizes of a batch, from which follow the costs of an image and of a step.
_COUNTED = (16, 32)


class Machine(NamedTuple):
    """GPUs in nodes, and what they can do.

    Attributes:
        name: name of the GPU.
        peak: its memory, and its tensor cores.
        vector_flops: operations per second of its other cores, in float32.
        node: GPUs of a node.
        link: bytes per second that a GPU sends to others of its node.
        network: bytes per second that a GPU sends to other nodes.
        latency: seconds of a message.
    """

    name: str
    peak: Peak
    vector_flops: float
    node: int = 8
    link: float = 450e9
    network: float = 50e9
    latency: float = 5e-6


MACHINES = (
    Machine("H100", PEAKS["NVIDIA H100 80GB HBM3"], 67e12),
    Machine("H200", PEAKS["NVIDIA H200"], 67e12),
)


class Costs(NamedTuple):
    """What a train step costs, whatever computes it.

    Attributes:
        name: name of the network.
        num_parameters: number of its parameters.
        image: operations and bytes for each image.
        step: those of each step.
    """

    name: str
    num_parameters: int
    image: Operations
    step: Operations


class Prediction(NamedTuple):
    """The least time of a step, in seconds, and what limits it.

    Attributes:
        devices: number of devices.
        batch: images on each device.
        products: on tensor cores.
        elementwise: on the other cores.
        memory: of reading and writing.
        reduction: of sums over the devices.
    """

    devices: int
    batch: int
    products: float
    elementwise: float
    memory: float
    reduction: float

    @property
    def compute(self) -> float:
        """Without other devices."""
        return max(self.products + self.elementwise, self.memory)

    @property
    def seconds(self) -> float:
        """All of it."""
        hidden = _BACKWARD * self.compute
        return self.compute + max(self.reduction - hidden, 0.0)

    @property
    def efficiency(self) -> float:
        """Share of the speed that the devices would have without communication."""
        return self.compute / self.seconds

    @property
    def limit(self) -> str:
        """What takes the longest."""
        limits = {
            "products": self.products,
            "elementwise": self.elementwise,
            "memory": self.memory,
            "communication": self.reduction,
        }
        return max(limits, key=lambda name: limits[name])


def costs(name: str, problem: Problem) -> Costs:
    """Counts what a network's train step costs for an image, and for a step.

    Args:
        name: name of the network.
        problem: its config, and the images.
    """
    (few, num_parameters), (many, _) = (_counted(problem, batch) for batch in _COUNTED)
    image, step = Operations(), Operations()
    image.add(many, 1 / (_COUNTED[1] - _COUNTED[0]))
    image.add(few, -1 / (_COUNTED[1] - _COUNTED[0]))
    step.add(few)
    step.add(image, -_COUNTED[0])
    return Costs(name, num_parameters, image, step)


def _counted(problem: Problem, batch_size: int) -> tuple[Operations, int]:
    """Operations of a step, and the number of parameters."""
    config = problem.config.replace(batch_size=batch_size)
    graphdefs: list[nnx.GraphDef] = []

    def create() -> train_step.TrainState:
        graphdef, state = train_step.create(
            config, problem.image_shape, problem.num_classes
        )
        graphdefs.append(graphdef)
        return state

    state = jax.eval_shape(create)
    batch = problem._replace(config=config).random_batch()
    devices = parallel.Devices(jax.devices()[:1])
    step = train_step.make_train_step(graphdefs[0], config, devices)
    num_parameters = sum(one.size for one in jax.tree.leaves(state.params))
    return operations.count(step, state, batch), num_parameters


def predict(
    costs: Costs, machine: Machine, dtype: str, devices: int, batch: int
) -> Prediction:
    """The least time of a step.

    Args:
        costs: what the step costs, counted in float32.
        machine: the GPUs.
        dtype: dtype of the products; parameters and sums are float32.
        devices: number of GPUs.
        batch: images on each.
    """
    work = Operations()
    work.add(costs.step)
    work.add(costs.image, batch)
    size = 2 if dtype == "bfloat16" else 4
    # Adam reads parameters, gradients and two moments, and writes all but gradients.
    optimizer = 7 * 4 * costs.num_parameters
    return Prediction(
        devices=devices,
        batch=batch,
        products=work.products / machine.peak.flops_per_s[dtype],
        elementwise=work.elementwise / machine.vector_flops,
        memory=(size / 4 * work.product_bytes + optimizer) / machine.peak.bytes_per_s,
        reduction=reduction(work.reduced_bytes, machine, devices),
    )


def reduction(size: float, machine: Machine, devices: int) -> float:
    """Seconds of a sum over devices, after which each of them has it.

    A ring within each node; then, if there are several, rings over the nodes, one for
    each GPU of a node with its share of the sum.

    Args:
        size: bytes that each device has.
        machine: the devices.
        devices: their number.
    """
    local = min(devices, machine.node)
    nodes = devices / local
    # Each of 2 (n - 1) messages of a ring has an nth of the bytes.
    seconds = 2 * (local - 1) * (size / local / machine.link + machine.latency)
    share = size / local
    return seconds + 2 * (nodes - 1) * (
        share / nodes / machine.network + machine.latency
    )


def hiding_batch(costs: Costs, machine: Machine, dtype: str, devices: int) -> int:
    """The smallest batch of each device at which communication takes no time."""

    def hides(batch: int) -> bool:
        return predict(costs, machine, dtype, devices, batch).efficiency == 1

    above = 1
    while not hides(above):
        above *= 2
    below = above // 2
    while above - below > 1:
        middle = (above + below) // 2
        above, below = (middle, below) if hides(middle) else (above, middle)
    return above


def rows(found: Sequence[Costs], env: Mapping[str, Any]) -> list[Row]:
    """A row for each network, machine, dtype, number of devices and batch."""
    made = []
    for costs, machine, dtype, devices, batch in itertools.product(
        found, MACHINES, DTYPES, DEVICES, BATCHES
    ):
        one = predict(costs, machine, dtype, devices, batch)
        predicted = {
            "network": costs.name,
            "num_parameters": costs.num_parameters,
            "product_mflop_per_image": costs.image.products / 1e6,
            "elementwise_mflop_per_image": costs.image.elementwise / 1e6,
            "product_mb_per_image": costs.image.product_bytes / 1e6,
            "reduced_mb_per_step": costs.step.reduced_bytes / 1e6,
            "gpu": machine.name,
            "dtype": dtype,
            "devices": devices,
            "batch_of_each": batch,
            "products_s": one.products,
            "elementwise_s": one.elementwise,
            "memory_s": one.memory,
            "communication_s": one.reduction,
            "step_s": one.seconds,
            "limit": one.limit,
            "efficiency": one.efficiency,
        }
        made.append(results.row(env, predicted))
    return made


def tables(found: Sequence[Costs], machine: Machine) -> str:
    """What networks cost, and what limits them, in Markdown.

    Args:
        found: the networks.
        machine: the GPUs of the second table.
    """
    header = (
        *("network", "parameters", "products, MFLOP an image"),
        *("elementwise, MFLOP an image", "products' MB an image", "summed, MB a step"),
    )
    lines = [
        [
            one.name,
            f"{one.num_parameters:,}",
            f"{one.image.products / 1e6:,.0f}",
            f"{one.image.elementwise / 1e6:,.0f}",
            f"{one.image.product_bytes / 1e6:,.1f}",
            f"{one.step.reduced_bytes / 1e6:,.2f}",
        ]
        for one in found
    ]
    counted = results.markdown_table(header, lines, numeric=header[1:])
    limits_header = (
        *("network", "dtype", "ms a step of 128", "limit"),
        *(f"hidden on {n:,} from a batch of" for n in (8, 64, 1024)),
        "efficiency on 1,024, batch 128",
    )
    lines = []
    for one, dtype in itertools.product(found, DTYPES):
        alone = predict(one, machine, dtype, 1, 128)
        many = predict(one, machine, dtype, 1024, 128)
        lines.append(
            [
                one.name,
                dtype,
                f"{1e3 * alone.seconds:.3g}",
                alone.limit,
                *(f"{hiding_batch(one, machine, dtype, n):,}" for n in (8, 64, 1024)),
                f"{100 * many.efficiency:.0f} %",
            ]
        )
    limits = results.markdown_table(
        limits_header, lines, numeric=(limits_header[2], *limits_header[4:])
    )
    return f"{counted}\n\nOn {machine.name}s, at best:\n\n{limits}"
