"""The routing benchmark: implementations, sizes, batches, forward and backward, dtypes.

No time counts before its result has been checked against the textbook implementation
in full float32. What fails is a row too, with its reason and without a time. All run in
JAX's default precision, which on a GPU multiplies float32 as tf32.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from capsjax.errors import UserError
from capsjax.runs import results
from capsjax.runs.results import Row
from kernels import routing
from kernels.routing import WORKLOADS, Workload
from kernels.tools import timing

MODES = ("forward", "forward+backward")

# By how much a result may differ from full float32, relative to the largest absolute
# value of that output. One rounding is 5e-4 for tf32 and float16, in which float32
# inputs may be multiplied too, and 4e-3 for bfloat16; routing adds up a few of them.
ERROR_BOUNDS: Mapping[str, float] = MappingProxyType(
    {"float32": 2e-3, "bfloat16": 3e-2, "float16": 4e-3}
)

OK, WRONG, REFUSED = "ok", "wrong", "refused"
OUT_OF_MEMORY, FAILED = "out of memory", "failed"

# Elsewhere these run in an interpreter only.
_NEED_GPU = {"mosaic_gpu"}

# Examples for which the expected result is computed at once: votes take memory.
_SLICE = 32


class Peak(NamedTuple):
    """What a device can do at most.

    Attributes:
        bytes_per_s: of its memory.
        flops_per_s: of its matrix units without sparsity, by dtype of the inputs;
            float32 as tf32.
    """

    bytes_per_s: float
    flops_per_s: Mapping[str, float]


# By JAX's device kind. From NVIDIA's data sheets of the H100 and H200 (SXM), whose
# FLOP/s with sparsity are halved here.
_HOPPER_FLOPS = {"float32": 495e12, "bfloat16": 989e12, "float16": 989e12}
PEAKS: Mapping[str, Peak] = MappingProxyType(
    {
        "NVIDIA H200": Peak(4.8e12, _HOPPER_FLOPS),
        "NVIDIA H100 80GB HBM3": Peak(3.35e12, _HOPPER_FLOPS),
    }
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be measured: all combinations, ``repeats`` timed calls of each."""

    workloads: Sequence[str]
    batch_sizes: Sequence[int]
    implementations: Sequence[str]
    modes: Sequence[str]
    dtypes: Sequence[str]
    repeats: int


class Combination(NamedTuple):
    """What all implementations are compared on."""

    workload: str
    batch_size: int
    dtype: str
    mode: str


def make_plan(
    *,
    workloads: Sequence[str],
    batch_sizes: Sequence[str] | None,
    implementations: Sequence[str] | None,
    modes: Sequence[str],
    dtypes: Sequence[str] | None,
    repeats: int,
) -> Plan:
    """Checks what a user asks for; None is what suits this machine.

    Raises:
        UserError: an unknown name, a batch size that is none, or an implementation that
            has no meaningful time on this machine.
    """
    on_gpu = jax.default_backend() == "gpu"
    if batch_sizes is None:
        batch_sizes = ["128", "512", "1024"] if on_gpu else ["128"]
    if implementations is None:
        implementations = [
            name for name in routing.IMPLEMENTATIONS if on_gpu or name not in _NEED_GPU
        ]
    if dtypes is None:
        dtypes = ["float32", "bfloat16"] if on_gpu else ["float32"]
    _check_names("workloads", workloads, WORKLOADS)
    _check_names("implementations", implementations, routing.IMPLEMENTATIONS)
    _check_names("modes", modes, MODES)
    _check_names("dtypes", dtypes, ERROR_BOUNDS)
    for size in batch_sizes:
        if not size.isdecimal() or int(size) < 1:
            raise UserError(f"--batch_sizes: {size!r} is not a number of examples")
    for name in implementations:
        if name in _NEED_GPU and not on_gpu:
            raise UserError(
                f"--implementations: without a GPU {name} runs in an interpreter, "
                "whose time says nothing; leave it out"
            )
    # float32 first: it is what the others are compared with.
    in_order = [dtype for dtype in ERROR_BOUNDS if dtype in dtypes]
    sizes = [int(size) for size in batch_sizes]
    return Plan(workloads, sizes, implementations, modes, in_order, repeats)


def run(plan: Plan, env: Mapping[str, Any]) -> Iterator[list[Row]]:
    """Measures everything in a plan.

    Args:
        plan: from `make_plan`.
        env: from `capsjax.runs.provenance.environment`.

    Yields:
        Rows of all implementations on one combination.
    """
    float32_reference: dict[Combination, float | None] = {}
    for combination in itertools.starmap(
        Combination,
        itertools.product(plan.workloads, plan.batch_sizes, plan.dtypes, plan.modes),
    ):
        measured = _measure(combination, plan)
        reference = measured.get("reference", {}).get("median_s")
        in_float32 = combination._replace(dtype="float32")
        if combination == in_float32:
            float32_reference[combination] = reference
        common = _common_columns(combination)
        rows = []
        for name, outcome in measured.items():
            known = {**common, "implementation": name, **outcome}
            if "median_s" in outcome:
                known |= {
                    "speedup_over_reference": _ratio(reference, outcome["median_s"]),
                    "speedup_over_float32_reference": _ratio(
                        float32_reference.get(in_float32), outcome["median_s"]
                    ),
                    "roofline_fraction": _ratio(
                        _least_s(known, env["device"]), outcome["median_s"]
                    ),
                }
            rows.append(results.row(env, known))
        yield rows


def flops(workload: Workload, batch_size: int, mode: str) -> int:
    """Floating-point operations of the products with the weights.

    Counted for routing that keeps no array of B x I x J elements and so computes again
    what it needs, as a fused kernel does. With F operations to multiply each input by
    each matrix once: a forward takes a weighted sum of the votes in each iteration and
    the logits before all but the first. A backward takes, for each iteration but the
    first, 3 F for the gradient that passes through the coupling to the poses before;
    then one pass for the gradient of the inputs and one for that of the weights. That
    is 25 F in three iterations; `xla`, which keeps more, does with 17 F.
    """
    B, (I, P, J, Q, _, r) = batch_size, workload
    F = 2 * B * I * J * P * Q
    forward = (2 * r - 1) * F
    if mode == "forward":
        return forward
    through_coupling = 3 * (r - 1) * F
    inputs, weights = (2 * r - 1) * F, (4 * r - 3) * F
    return forward + through_coupling + inputs + weights


def min_bytes(workload: Workload, batch_size: int, mode: str, itemsize: int) -> int:
    """Fewest bytes between device memory and chip.

    A forward reads inputs and weights and writes the poses. A backward reads inputs,
    weights and the gradient of the poses, and writes the gradients.
    """
    B, (I, P, J, Q, _, _) = batch_size, workload
    inputs_and_weights, poses = B * I * P + I * J * Q * P, B * J * Q
    if mode == "forward":
        return itemsize * (inputs_and_weights + poses)
    return itemsize * (3 * inputs_and_weights + 2 * poses)


def table(rows: Sequence[Row]) -> str:
    """The rows of one combination as people read them."""
    numbers = {
        "median ms": ("median_s", ".4g", 1e3),
        "min": ("min_s", ".4g", 1e3),
        "max": ("max_s", ".4g", 1e3),
        "speed-up": ("speedup_over_reference", ".2f", 1),
        "roofline": ("roofline_fraction", ".1%", 1),
        "temp MB": ("temp_mb", ".1f", 1),
        "error": ("max_error", ".1e", 1),
    }
    lines = []
    for row in rows:
        cells = [
            format(scale * row.number(column), form) if row.get(column) else ""
            for column, form, scale in numbers.values()
        ]
        status = row["status"].upper() if is_bad(row) else row["status"]
        outcome = "" if status == OK else f"{status}: {row['reason']}"
        lines.append([row["implementation"], *cells, outcome])
    title = "{workload}, B = {B}, {mode}, {dtype}".format_map(rows[0])
    header = ["implementation", *numbers, ""]
    return f"{title}\n{results.text_table(header, lines, numeric=numbers)}\n"


def is_bad(row: Mapping[str, str]) -> bool:
    """Whether a row tells of a fault, not of a limit."""
    return row["status"] in (WRONG, FAILED)


def expected_results(
    workload: str, batch_size: int, dtype: str
) -> tuple[tuple[jax.Array, ...], list[np.ndarray]]:
    """Arguments of forward and backward, and what comes out by the textbook.

    Args:
        workload: a name from `kernels.routing.WORKLOADS`.
        batch_size: examples.
        dtype: of the arguments.

    Returns:
        Inputs, weights, bias and the gradient of the poses, in ``dtype``; and poses and
        gradients of inputs, weights and bias in float32.
    """
    combination = Combination(workload, batch_size, dtype, MODES[1])
    arguments = _arguments(combination)
    return arguments, _expected(WORKLOADS[workload], MODES[1], arguments)


def max_error(found: Sequence[jax.Array], expected: Sequence[np.ndarray]) -> float:
    """Largest difference, relative to the largest absolute value of its output."""
    errors = [
        np.max(np.abs(np.asarray(x).astype(np.float32) - y)) / np.max(np.abs(y))
        for x, y in zip(found, expected, strict=True)
    ]
    return float(np.max(errors))


def _check_names(flag: str, names: Sequence[str], choices: Collection[str]) -> None:
    for name in names:
        if name not in choices:
            raise UserError(
                f"--{flag}: there is no {name!r}; choose from {', '.join(choices)}"
            )
    if not names:
        raise UserError(f"--{flag} is empty; choose from {', '.join(choices)}")


def _measure(combination: Combination, plan: Plan) -> dict[str, dict[str, Any]]:
    """What is found of each implementation, by name and column."""
    workload, arguments = WORKLOADS[combination.workload], _arguments(combination)
    expected = _expected(workload, combination.mode, arguments)
    bound = ERROR_BOUNDS[combination.dtype]
    outcomes: dict[str, dict[str, Any]] = {}
    calls: dict[str, Callable[[], Any]] = {}
    for name in plan.implementations:
        function = _function(workload, combination.mode, name)
        outcome = outcomes[name] = _check(function, arguments, expected, bound)
        call = outcome.pop("call", None)
        if outcome["status"] == OK:
            calls[name] = functools.partial(call, *arguments)
    # Device times need no alternating; and one that cannot be had spoils no other.
    in_turn = jax.default_backend() == "cpu"
    for names in [list(calls)] if in_turn else [[name] for name in calls]:
        try:
            timings = timing.measure_in_turn(
                [calls[name] for name in names], repeats=plan.repeats
            )
        except RuntimeError as error:
            for name in names:
                outcomes[name] |= _failure(error)
            continue
        for name, measured in zip(names, timings, strict=True):
            outcomes[name] |= {
                "clock": measured.clock,
                "median_s": measured.median_s,
                "min_s": measured.min_s,
                "max_s": measured.max_s,
                "repeats": len(measured.seconds),
            }
    return outcomes


def _check(
    function: jax.stages.Wrapped,
    arguments: Sequence[jax.Array],
    expected: Sequence[np.ndarray],
    bound: float,
) -> dict[str, Any]:
    """Compiles a function and compares its results with what is expected."""
    try:
        program = timing.compile_program(function, *arguments)
        found = jax.block_until_ready(program.call(*arguments))
    except (ValueError, NotImplementedError) as error:
        return {"status": REFUSED, "reason": _first_line(error)}
    except RuntimeError as error:
        return _failure(error)
    off = max_error(found, expected)
    outcome = {**program._asdict(), "max_error": off}
    if off <= bound:
        return {**outcome, "status": OK}
    # NaN comes here too.
    reason = f"off by {off:.2g} of the largest value; {bound:g} is allowed"
    return {**outcome, "status": WRONG, "reason": reason}


def _arguments(combination: Combination) -> tuple[jax.Array, ...]:
    """Inputs, weights and bias; and the gradient of the poses where one is needed."""
    workload, B, dtype, mode = combination
    arguments = WORKLOADS[workload].arguments(B, dtype)
    if mode == "forward":
        return arguments
    shape = (B, *arguments[2].shape)
    cotangent = np.random.default_rng(1).normal(size=shape)
    return *arguments, jnp.asarray(cotangent, dtype)


def _function(workload: Workload, mode: str, implementation: str) -> jax.stages.Wrapped:
    """Poses [B, J, Q]; with the backward also the gradients of all arguments."""

    def forward(u, W, bias):
        return routing.route(
            u,
            W,
            bias,
            num_iterations=workload.num_iterations,
            leaky=workload.leaky,
            implementation=implementation,
        )

    def forward_and_backward(u, W, bias, cotangent):
        poses, vjp = jax.vjp(forward, u, W, bias)
        return poses, *vjp(cotangent)

    if mode == "forward":
        return jax.jit(lambda *arguments: (forward(*arguments),))
    return jax.jit(forward_and_backward)


def _expected(
    workload: Workload, mode: str, arguments: Sequence[jax.Array]
) -> list[np.ndarray]:
    """The textbook's results in float32, for the same rounded arguments.

    Taken in slices of the batch, whose votes fit in memory where those of the whole
    batch may not.
    """
    u, W, bias, *cotangent = (x.astype(jnp.float32) for x in arguments)
    function = _function(workload, mode, "reference")
    slices = []
    # GPUs would multiply float32 as tf32.
    with jax.default_matmul_precision("highest"):
        for start in range(0, len(u), _SLICE):
            part = slice(start, start + _SLICE)
            found = function(u[part], W, bias, *(x[part] for x in cotangent))
            slices.append([np.asarray(x) for x in found])
    poses, *gradients = zip(*slices, strict=True)
    if not gradients:
        return [np.concatenate(poses)]
    du, dW, dbias = gradients
    return [np.concatenate(poses), np.concatenate(du), np.sum(dW, 0), np.sum(dbias, 0)]


def _failure(error: RuntimeError) -> dict[str, str]:
    out_of_memory = "RESOURCE_EXHAUSTED" in str(error)
    status = OUT_OF_MEMORY if out_of_memory else FAILED
    return {"status": status, "reason": _first_line(error)}


def _first_line(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text.splitlines()[0][:200]


def _common_columns(combination: Combination) -> dict[str, Any]:
    name, batch_size, dtype, mode = combination
    size = (WORKLOADS[name], batch_size, mode)
    return {
        "workload": name,
        "B": batch_size,
        **WORKLOADS[name]._asdict(),
        "mode": mode,
        "dtype": dtype,
        "flops": flops(*size),
        "min_bytes": min_bytes(*size, jnp.dtype(dtype).itemsize),
    }


def _least_s(known: Mapping[str, Any], device: str) -> float | None:
    """Least seconds by the device's data sheet; None if that is not known."""
    peak = PEAKS.get(device)
    if peak is None or known["clock"] != "device":
        return None
    return max(
        known["flops"] / peak.flops_per_s[known["dtype"]],
        known["min_bytes"] / peak.bytes_per_s,
    )


def _ratio(seconds: float | None, median_s: float) -> float | None:
    return None if seconds is None else seconds / median_s
