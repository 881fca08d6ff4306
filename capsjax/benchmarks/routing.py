"""The routing benchmark: implementations, sizes, batches, forward and backward, dtypes.

A time counts only after its result has been checked against the textbook implementation
in full float32. A failure is also a row, with its reason and without a time. Everything
runs in JAX's default precision, which on a GPU multiplies float32 as tf32.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from capsjax.benchmarks import choices
from capsjax.runs import results
from capsjax.runs.results import Row
from kernels import routing
from kernels.routing import WORKLOADS, Workload
from kernels.tools import timing

FORWARD, BOTH = MODES = ("forward", "forward+backward")

# Largest allowed difference from full float32, relative to the largest absolute value
# of an output. One rounding is 5e-4 for tf32 and float16, in which float32 inputs may
# be multiplied too, and 4e-3 for bfloat16; routing accumulates a few of them.
ERROR_BOUNDS: Mapping[str, float] = {"float32": 2e-3, "bfloat16": 3e-2, "float16": 4e-3}

OK, WRONG, FAILED = "ok", "wrong", "failed"

# Examples whose expected result is computed at once: votes take memory.
_SLICE = 32


class Peak(NamedTuple):
    """Peak bytes per second of a device's memory, and FLOP/s by dtype of the inputs."""

    bytes_per_s: float
    flops_per_s: Mapping[str, float]


# By JAX's device kind. From NVIDIA's data sheets of the H100 and H200 (SXM), whose
# FLOP/s with sparsity are halved here; float32 as tf32.
_HOPPER_FLOPS = {"float32": 495e12, "bfloat16": 989e12, "float16": 989e12}
PEAKS: Mapping[str, Peak] = {
    "NVIDIA H200": Peak(4.8e12, _HOPPER_FLOPS),
    "NVIDIA H100 80GB HBM3": Peak(3.35e12, _HOPPER_FLOPS),
}


class Combination(NamedTuple):
    """A task on which all implementations are compared."""

    workload: str
    batch_size: int
    dtype: str
    mode: str

    def arguments(self) -> tuple[jax.Array, ...]:
        """Inputs, weights, bias; with the backward also the gradient of the poses."""
        arguments = WORKLOADS[self.workload].arguments(self.batch_size, self.dtype)
        if self.mode == FORWARD:
            return arguments
        shape = (self.batch_size, *arguments[2].shape)
        cotangent = np.random.default_rng(1).normal(size=shape)
        return *arguments, jnp.asarray(cotangent, self.dtype)

    def route(self, implementation: str) -> Callable[..., jax.Array]:
        """An implementation of this task."""
        options = WORKLOADS[self.workload].options
        return functools.partial(
            routing.route, **options, implementation=implementation
        )

    def columns(self) -> dict[str, Any]:
        """The columns that the rows of all implementations share."""
        workload = WORKLOADS[self.workload]
        size = (workload, self.batch_size, self.mode)
        return {
            "workload": self.workload,
            "B": self.batch_size,
            **workload._asdict(),
            "mode": self.mode,
            "dtype": self.dtype,
            "flops": flops(*size),
            "min_bytes": min_bytes(*size, jnp.dtype(self.dtype).itemsize),
        }


class Plan(NamedTuple):
    """All measurements: ``repeats`` timed calls of each."""

    combinations: Sequence[Combination]
    implementations: Sequence[str]
    repeats: int


def make_plan(
    *,
    workloads: Sequence[str],
    batch_sizes: Sequence[str] | None,
    implementations: Sequence[str] | None,
    modes: Sequence[str],
    dtypes: Sequence[str] | None,
    repeats: int,
) -> Plan:
    """Checks the flags; None is replaced by what suits this machine.

    Raises:
        UserError: an unknown name, an invalid batch size, or an implementation without
            a meaningful time on this machine.
    """
    on_gpu = jax.default_backend() == "gpu"
    if batch_sizes is None:
        batch_sizes = ["128", "512", "1024"] if on_gpu else ["128"]
    if implementations is None:
        unsuitable = set() if on_gpu else choices.NEED_GPU
        implementations = [x for x in routing.IMPLEMENTATIONS if x not in unsuitable]
    if dtypes is None:
        dtypes = ["float32", "bfloat16"] if on_gpu else ["float32"]
    choices.check_names("workloads", workloads, WORKLOADS)
    choices.check_names("modes", modes, MODES)
    choices.check_names("dtypes", dtypes, ERROR_BOUNDS)
    choices.check_implementations(
        "implementations", implementations, routing.IMPLEMENTATIONS
    )
    sizes = choices.counts("batch_sizes", batch_sizes, "examples")
    # float32 first: the others are compared with it.
    dtypes = [dtype for dtype in ERROR_BOUNDS if dtype in dtypes]
    product = itertools.product(workloads, sizes, dtypes, modes)
    return Plan([Combination(*x) for x in product], implementations, repeats)


def run(plan: Plan, env: Mapping[str, Any]) -> Iterator[list[Row]]:
    """Measures everything in a plan.

    Args:
        plan: a plan from `make_plan`.
        env: environment from `capsjax.runs.provenance.environment`.

    Yields:
        Rows of all implementations, one combination after the other.
    """
    references: dict[Combination, float | None] = {}
    for combination in plan.combinations:
        outcomes = _measure(combination, plan)
        reference = outcomes.get("reference", {}).get("median_s")
        references[combination] = reference
        in_float32 = references.get(combination._replace(dtype="float32"))
        rows = []
        for name, outcome in outcomes.items():
            known = {**combination.columns(), "implementation": name, **outcome}
            if median := outcome.get("median_s"):
                for column, seconds in (
                    ("speedup_over_reference", reference),
                    ("speedup_over_float32_reference", in_float32),
                    ("roofline_fraction", _least_s(known, env["device"])),
                ):
                    known[column] = None if seconds is None else seconds / median
            rows.append(results.row(env, known))
        yield rows


def flops(workload: Workload, batch_size: int, mode: str) -> int:
    """Floating-point operations of the products with the weights.

    Counted for routing that keeps no array of B x I x J elements and recomputes what it
    needs, as a fused kernel does. Multiplying each input by each matrix once takes F
    operations. A forward takes a weighted sum of the votes in each iteration and the
    logits before all but the first. A backward takes, for each iteration but the first,
    3 F for the gradient that passes through the coupling to the previous poses; then
    one pass for the gradient of the inputs and one for that of the weights. That is
    25 F in three iterations; `xla`, which keeps more, needs 17 F.
    """
    B, (I, P, J, Q, _, r) = batch_size, workload
    F = 2 * B * I * J * P * Q
    forward = (2 * r - 1) * F
    if mode == FORWARD:
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
    if mode == FORWARD:
        return itemsize * (inputs_and_weights + poses)
    return itemsize * (3 * inputs_and_weights + 2 * poses)


def table(rows: Sequence[Row]) -> str:
    """A table of the rows of one combination for the terminal."""
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
    """Returns whether a row reports a fault rather than a limit."""
    return row["status"] in (WRONG, FAILED)


def expected_results(
    combination: Combination, arguments: Sequence[jax.Array]
) -> list[np.ndarray]:
    """The textbook's results in float32, for the same rounded arguments.

    Computed in slices of the batch, because the votes of the whole batch may not fit in
    memory.

    Returns:
        Poses; with the backward also the gradients of inputs, weights and bias.
    """
    u, W, bias, *cotangent = (x.astype(jnp.float32) for x in arguments)
    function = _jitted(combination.route("reference"), combination.mode)
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


def check(
    route: Callable[..., jax.Array],
    combination: Combination,
    arguments: Sequence[jax.Array],
    expected: Sequence[np.ndarray],
) -> tuple[dict[str, Any], Callable[[], Any] | None]:
    """Compiles an implementation and compares its results with `expected_results`.

    Returns:
        Columns of a row; and a call to be timed, or None if it fails or is wrong.
    """
    function = _jitted(route, combination.mode)
    try:
        program = timing.compile_program(function, *arguments)
        found = jax.block_until_ready(program.call(*arguments))
    except (RuntimeError, ValueError) as error:
        return _failure(error), None
    # The largest difference, relative to the largest absolute value of its output.
    errors = [
        np.max(np.abs(np.asarray(x).astype(np.float32) - y)) / np.max(np.abs(y))
        for x, y in zip(found, expected, strict=True)
    ]
    off = float(np.max(errors))
    bound = ERROR_BOUNDS[combination.dtype]
    columns = {
        "compile_s": program.compile_s,
        "temp_mb": program.temp_mb,
        "peak_mb": program.peak_mb,
        "max_error": off,
    }
    if off <= bound:
        call = functools.partial(program.call, *arguments)
        return columns | {"status": OK}, call
    # NaN ends up here too.
    reason = f"off by {off:.2g} of the largest value; {bound:g} is allowed"
    return columns | {"status": WRONG, "reason": reason}, None


def _measure(combination: Combination, plan: Plan) -> dict[str, dict[str, Any]]:
    """Columns of each implementation, by its name."""
    arguments = combination.arguments()
    expected = expected_results(combination, arguments)
    outcomes: dict[str, dict[str, Any]] = {}
    calls: dict[str, Callable[[], Any]] = {}
    for name in plan.implementations:
        route = combination.route(name)
        outcomes[name], call = check(route, combination, arguments, expected)
        if call is not None:
            calls[name] = call
    # Device times need no alternation, and one that fails must not affect the others.
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
            outcomes[name] |= {"clock": measured.clock, **measured.columns()}
    return outcomes


def _jitted(route: Callable[..., jax.Array], mode: str) -> jax.stages.Wrapped:
    """Poses [B, J, Q]; with the backward also the gradients of all arguments."""

    def forward_and_backward(u, W, bias, cotangent):
        poses, vjp = jax.vjp(route, u, W, bias)
        return poses, *vjp(cotangent)

    if mode == FORWARD:
        return jax.jit(lambda *arguments: (route(*arguments),))
    return jax.jit(forward_and_backward)


def _failure(error: Exception) -> dict[str, str]:
    text = str(error) or type(error).__name__
    if isinstance(error, ValueError | NotImplementedError):
        status = "refused"
    else:
        status = "out of memory" if "RESOURCE_EXHAUSTED" in text else FAILED
    return {"status": status, "reason": text.splitlines()[0][:200]}


def _least_s(known: Mapping[str, Any], device: str) -> float | None:
    """Fewest seconds according to the device's data sheet, if that is known."""
    peak = PEAKS.get(device)
    if peak is None or known["clock"] != "device":
        return None
    return max(
        known["flops"] / peak.flops_per_s[known["dtype"]],
        known["min_bytes"] / peak.bytes_per_s,
    )
