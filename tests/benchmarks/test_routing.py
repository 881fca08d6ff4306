"""The routing benchmark: its rows, the checks of results, and the figure."""

import math
import pathlib
import re
import subprocess
from functools import partial
from itertools import chain, product
from typing import Any
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.errors import JaxRuntimeError
from scipy.special import softmax

from capsjax.benchmarks import routing as benchmark_routing
from capsjax.benchmarks.figures import routing as plots_routing
from capsjax.errors import UserError
from capsjax.runs import results
from capsjax.runs.results import Row
from kernels import routing
from kernels.routing.dynamic import api
from kernels.routing.dynamic.workloads import Workload
from kernels.tools import timing
from tests.launching import assert_one_line, finish, run, start
from tests.tables import committed_columns

TINY = Workload(I=5, P=3, J=4, Q=2, leaky=True, num_iterations=3)
ENV = {
    "started": "2026-01-01T00:00:00+00:00",
    "commit": "abc",
    "device": "cpu",
    "num_devices": 1,
    "cpu": "a cpu",
    "num_cpus": 2,
    "versions": {"jax": "1"},
    "command": ["python", "-m", "x", "--output=/home/me/rows.csv"],
}
REFERENCE = routing.IMPLEMENTATIONS["reference"]


def make_plan(**asked) -> benchmark_routing.Plan:
    """A small plan, by default the forward of one workload in float32."""
    defaults: dict[str, Any] = {
        "workloads": ["tiny"],
        "batch_sizes": ["3"],
        "implementations": ["reference"],
        "modes": ["forward"],
        "dtypes": ["float32"],
        "repeats": 2,
    }
    return benchmark_routing.make_plan(**(defaults | asked))


def measured(env=ENV, **asked) -> list[Row]:
    """All rows of such a plan."""
    return list(chain(*benchmark_routing.run(make_plan(**asked), env)))


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """One small workload, in full float32 on GPUs too."""
    monkeypatch.setattr(benchmark_routing, "WORKLOADS", {"tiny": TINY})
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture
def implement(monkeypatch):
    """Adds implementations of routing under the names of the arguments."""

    def add(**implementations):
        table = {**routing.IMPLEMENTATIONS, **implementations}
        monkeypatch.setattr(routing, "IMPLEMENTATIONS", table)
        monkeypatch.setattr(api, "IMPLEMENTATIONS", table)

    return add


def test_a_row_has_provenance_sizes_and_times():
    (row,) = measured(modes=["forward+backward"])
    columns = committed_columns("routing_benchmark.csv")
    assert row.keys() == columns - {"reason"} | {"leaky"}
    assert row["jax"] == "1"
    assert row["command"] == "python -m x --output=DIR"
    sizes = [row[c] for c in ("workload", "B", "I", "P", "J", "Q", "num_iterations")]
    assert sizes == ["tiny", "3", "5", "3", "4", "2", "3"]
    clock = "device" if jax.default_backend() == "gpu" else "wall"
    assert (row["status"], row["clock"], row["repeats"]) == ("ok", clock, "2")
    assert 0 < row.number("min_s") <= row.number("median_s") <= row.number("max_s")
    assert row.number("peak_mb") > row.number("temp_mb")
    assert row["roofline_fraction"] == ""  # nothing is known of this device


def test_implementations_pass_in_both_modes_and_dtypes():
    rows = measured(
        implementations=["xla", "reference"],
        modes=benchmark_routing.MODES,
        dtypes=["float32", "bfloat16"],
    )
    assert [row["status"] for row in rows] == ["ok"] * 2 * 2 * 2
    for row in rows:
        # In bfloat16 there is at least one rounding.
        error = row.number("max_error")
        assert error < 1e-5 if row["dtype"] == "float32" else error > 1e-3


def test_options_of_the_workload_are_passed_on(implement):
    spy = Mock(side_effect=REFERENCE)
    implement(spy=spy)
    measured(implementations=["spy"])
    (call,) = spy.call_args_list
    assert call.kwargs == {"num_iterations": 3, "leaky": True, "stop_gradient": False}


@pytest.mark.parametrize("factor", [1.01, np.nan])
def test_a_wrong_result_gets_no_time(implement, factor):
    implement(wrong=lambda *args, **options: factor * REFERENCE(*args, **options))
    good, wrong = measured(implementations=["reference", "wrong"])
    assert (good["status"], wrong["status"]) == ("ok", "wrong")
    assert wrong["reason"].startswith("off by")
    times = {"clock", "median_s", "min_s", "max_s", "repeats", "speedup_over_reference"}
    assert not wrong.keys() & times
    *_, last = benchmark_routing.table([good, wrong]).strip().splitlines()
    assert re.match("wrong .* WRONG: off by", last)
    assert [benchmark_routing.is_bad(row) for row in (good, wrong)] == [False, True]


@pytest.mark.parametrize("argument", [0, 1])
def test_a_wrong_gradient_gets_no_time(implement, argument):
    @jax.custom_jvp
    def off(x):
        return x

    off.defjvp(lambda primals, tangents: (primals[0], 1.01 * tangents[0]))

    def wrong(*arguments, **options):
        parts = list(arguments)
        parts[argument] = off(parts[argument])
        return REFERENCE(*parts, **options)

    implement(wrong=wrong)
    rows = measured(implementations=["wrong"], modes=benchmark_routing.MODES)
    assert [row["status"] for row in rows] == ["ok", "wrong"]
    assert rows[1].number("max_error") == pytest.approx(0.01, rel=1e-2)


@pytest.mark.parametrize(
    ("error", "text", "status", "bad"),
    [
        (ValueError, "Q of 16 only\nand more", "refused", False),
        (NotImplementedError, "Q of 16 only", "refused", False),
        (JaxRuntimeError, "RESOURCE_EXHAUSTED: Q of 16 only", "out of memory", False),
        (JaxRuntimeError, "INTERNAL: Q of 16 only", "failed", True),
    ],
)
def test_failures_are_rows_and_the_others_go_on(implement, error, text, status, bad):
    implement(unable=Mock(side_effect=error(text)))
    row, other = measured(implementations=["unable", "reference"])
    assert row["status"] == status
    assert row["reason"].endswith("Q of 16 only")
    assert "median_s" not in row
    assert benchmark_routing.is_bad(row) == bad
    assert other["status"] == "ok"
    assert other["speedup_over_reference"] == "1"


def test_a_failure_of_the_timing_is_a_row(monkeypatch):
    error = RuntimeError("the profiler saw no work on the GPU")
    monkeypatch.setattr(timing, "measure_in_turn", Mock(side_effect=error))
    (row,) = measured()
    assert (row["status"], row["reason"]) == ("failed", str(error))
    assert "median_s" not in row


def times_given(monkeypatch, *seconds: tuple[float, ...]) -> None:
    """Makes these the times of the calls, one after the other, on a device's clock."""
    left = iter(seconds)

    def measure_in_turn(calls, *, repeats):
        return [timing.Timing(next(left), "device") for _ in calls]

    monkeypatch.setattr(timing, "measure_in_turn", measure_in_turn)


def test_speedups_are_ratios_of_medians_in_the_same_run(monkeypatch):
    float32, bfloat16 = [(1.0, 2.0, 9.0), (8.0,)], [(0.5,), (4.0,)]
    times_given(monkeypatch, *float32, *bfloat16)
    rows = measured(
        implementations=["xla", "reference"],
        dtypes=["bfloat16", "float32"],  # float32 is measured first all the same.
    )
    columns = ("dtype", "speedup_over_reference", "speedup_over_float32_reference")
    assert [tuple(row[c] for c in columns) for row in rows] == [
        ("float32", "4", "4"),
        ("float32", "1", "1"),
        ("bfloat16", "8", "16"),
        ("bfloat16", "1", "2"),
    ]


def test_no_speedup_without_the_reference(monkeypatch):
    times_given(monkeypatch, (1.0,))
    (row,) = measured(implementations=["xla"])
    assert row["median_s"] == "1"
    assert row["speedup_over_reference"] == row["speedup_over_float32_reference"] == ""


def test_roofline_fraction_of_a_known_device(monkeypatch):
    """The tiny workload is bound by memory, a hundredfold P and Q by arithmetic."""
    workloads = {"tiny": TINY, "large": Workload(I=5, P=300, J=4, Q=200)}
    monkeypatch.setattr(benchmark_routing, "WORKLOADS", workloads)
    times_given(monkeypatch, (1e-6,), (1e-6,))
    tiny, large_row = measured(
        {**ENV, "device": "NVIDIA H200"},
        workloads=list(workloads),
        batch_sizes=["200"],
    )
    B, numbers = 200, 5 * 4 * 2 * 3
    moved = 4 * (B * 5 * 3 + numbers + B * 4 * 2)
    products = 2 * B * 5 * 4 * 300 * 200
    for row, least_s in ((tiny, moved / 4.8e12), (large_row, 5 * products / 495e12)):
        fraction = row.number("roofline_fraction")
        assert fraction == pytest.approx(least_s / 1e-6, rel=1e-5)


def test_expected_result_does_not_depend_on_the_slices(monkeypatch):
    monkeypatch.setattr(benchmark_routing, "_SLICE", 2)
    (row,) = measured(batch_sizes=["5"], modes=["forward+backward"])
    assert row.number("max_error") < 1e-6


@pytest.mark.parametrize("mode", benchmark_routing.MODES)
def test_min_bytes_are_those_of_the_arrays(mode):
    u, W, bias = TINY.arguments(6, "bfloat16")
    poses = routing.route(u, W, bias)
    read = u.nbytes + W.nbytes
    forward = read + poses.nbytes
    # The backward also takes the gradient of the poses, and writes those of u and W.
    expected = {"forward": forward, "forward+backward": 2 * forward + read}
    assert benchmark_routing.min_bytes(TINY, 6, mode, 2) == expected[mode]


@pytest.mark.parametrize("num_iterations", [1, 2, 3, 5])
def test_flops_are_those_of_routing_that_keeps_no_coupling(num_iterations):
    """Counted while gradients are computed in passes, and these are right."""
    workload = TINY._replace(leaky=False, num_iterations=num_iterations)
    u, W, bias = workload.arguments(6, "float32")
    cotangent = jnp.asarray(np.random.default_rng(2).normal(size=(6, 4, 2)), u.dtype)

    route = partial(
        routing.route, num_iterations=num_iterations, implementation="reference"
    )
    expected_poses, vjp = jax.vjp(route, u, W, bias)
    counted = CountedRouting(num_iterations, u, W, bias)
    np.testing.assert_allclose(counted.forward(), expected_poses, atol=1e-5)
    assert counted.flops == benchmark_routing.flops(workload, 6, "forward")
    gradients = zip(counted.backward(cotangent), vjp(cotangent), strict=True)
    for found, expected in gradients:
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    assert counted.flops == benchmark_routing.flops(workload, 6, "forward+backward")


class CountedRouting:
    """Routing and its gradient in float64, with its products with W counted.

    It keeps the total inputs s and their gradients ds of each iteration, nothing of
    B x I x J elements. Index 0 is the first iteration.
    """

    def __init__(self, num_iterations, *arguments):
        self.u, self.W, self.bias = (np.asarray(x, np.float64) for x in arguments)
        self.r = num_iterations
        self.flops = 0

    def product(self, spec, *operands):
        indices = spec.split("->")[0].replace(",", "")
        sizes = zip(indices, chain(*(x.shape for x in operands)), strict=True)
        self.flops += 2 * math.prod(dict(sizes).values())
        return np.einsum(spec, *operands)

    def transform(self, V):
        return self.product("bjq,ijqp->bijp", V, self.W)

    def scaled(self, k):
        return k[..., None] * self.u[:, :, None]

    def sum_votes(self, k):
        return self.product("bijp,ijqp->bjq", self.scaled(k), self.W)

    def outer(self, V, k):
        return self.product("bjq,bijp->ijqp", V, self.scaled(k))

    def agreement(self, T):
        return np.einsum("bip,bijp->bij", self.u, T)

    def coupling(self, t, T=None):
        if t == 0:
            return np.full((len(self.u), *self.W.shape[:2]), 1 / self.W.shape[1])
        T = self.transform(self.V[t]) if T is None else T
        return softmax(self.agreement(T), axis=-1)

    def forward(self):
        self.s, self.V = [], [0.0]  # V[t]: sum of the poses before iteration t
        for t in range(self.r):
            self.s.append(self.sum_votes(self.coupling(t)) + self.bias)
            self.V.append(self.V[-1] + squash(self.s[-1]))
        return squash(self.s[-1])

    def dlogits(self, t):
        """Also what it is made from: coupling, T and R."""
        T, R = self.transform(self.V[t]), self.transform(self.ds[t])
        c, dc = self.coupling(t, T), self.agreement(R)
        return c * (dc - (c * dc).sum(-1, keepdims=True)), c, T, R

    def backward(self, dposes):
        dposes = np.asarray(dposes, np.float64)
        self.ds = [np.zeros(())] * self.r
        dV = 0.0
        for t in reversed(range(self.r)):  # through the coupling
            self.ds[t] = squash_vjp(self.s[t], dposes)
            if t > 0:
                dV = dV + self.sum_votes(self.dlogits(t)[0])
                dposes = dV
        du = np.einsum("bij,bijp->bip", self.coupling(0), self.transform(self.ds[0]))
        for t in range(1, self.r):
            dlogits, c, T, R = self.dlogits(t)
            du += np.einsum("bij,bijp->bip", c, R)
            du += np.einsum("bij,bijp->bip", dlogits, T)
        dW = self.outer(self.ds[0], self.coupling(0))
        for t in range(1, self.r):
            dlogits, c, _, _ = self.dlogits(t)
            dW += self.outer(self.ds[t], c) + self.outer(self.V[t], dlogits)
        return du, dW, sum(ds.sum(0) for ds in self.ds)


def squash(s):
    n = np.linalg.norm(s, axis=-1, keepdims=True)
    return n / (1 + n**2) * s


def squash_vjp(s, d):
    n = np.linalg.norm(s, axis=-1, keepdims=True)
    slope = (1 - n**2) / (1 + n**2) ** 2
    return n / (1 + n**2) * d + slope / n * (s * d).sum(-1, keepdims=True) * s


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"workloads": ["minst"]}, ["--workloads", "minst", "tiny"]),
        ({"implementations": ["cuda"]}, ["--implementations", "cuda", "xla"]),
        ({"modes": ["backward"]}, ["--modes", "backward", "forward+backward"]),
        ({"dtypes": ["float64"]}, ["--dtypes", "float64", "bfloat16"]),
        ({"dtypes": []}, ["--dtypes is empty", "bfloat16"]),
        ({"batch_sizes": ["0"]}, ["--batch_sizes", "'0'"]),
        ({"batch_sizes": ["8", "x"]}, ["--batch_sizes", "'x'"]),
    ],
)
def test_bad_flags_are_refused_with_the_choices(asked, words):
    with pytest.raises(UserError, match=".*".join(map(re.escape, words))):
        measured(**asked)


def test_an_interpreters_time_is_refused(implement, monkeypatch):
    """Not run by default without a GPU, and not when it is named."""
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    implement(mosaic_gpu=REFERENCE)
    rows = measured(implementations=None)
    assert [row["implementation"] for row in rows] == ["xla", "reference"]
    with pytest.raises(UserError, match=r"mosaic_gpu.*interpreter"):
        measured(implementations=["mosaic_gpu"])


def test_defaults_on_a_gpu(implement, monkeypatch):
    implement(mosaic_gpu=REFERENCE)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    plan = make_plan(batch_sizes=None, implementations=None, dtypes=None)
    assert plan.implementations == ["mosaic_gpu", "xla", "reference"]
    sizes = product(["tiny"], [128, 512, 1024], ["float32", "bfloat16"], ["forward"])
    assert plan.combinations == [*sizes]


def drawn(**columns: str) -> Row:
    """A row with what the figure needs."""
    run = {"started": "1", "device": "cpu", "cpu": "a cpu", "num_cpus": "2"}
    task = {"workload": "mnist", "B": "128", "mode": "forward", "dtype": "float32"}
    outcome = {"implementation": "xla", "status": "ok", "clock": "wall"}
    times = {"median_s": "0.02", "min_s": "0.01", "max_s": "0.04"}
    return Row(run | task | outcome | times | columns)


def test_latest_run_of_this_device():
    rows = [drawn(started=f"2026-01-0{day}T00:00:00+00:00") for day in (1, 2, 2, 3)]
    rows[2]["B"], rows[3]["device"] = "8", "NVIDIA H200"
    assert results.latest_run(rows, "cpu") == rows[1:3]
    assert results.latest_run(rows, "TPU") == []


def test_figure_has_a_panel_for_each_workload_and_mode():
    panels = list(product(("mnist", "cifar10", "wide"), benchmark_routing.MODES))
    rows = [
        drawn(workload=workload, mode=mode, implementation=name, B=B)
        for workload, mode in panels
        for name, B in product(("xla", "reference"), ("512", "128"))
    ]
    rows[0] |= {"median_s": "0.08", "max_s": "0.1"}
    rows += [drawn(workload="odd", status="refused", median_s="")]
    figure = plots_routing.times(rows)
    assert [axes.get_title() for axes in figure.axes] == [*map(", ".join, panels)]
    for axes in figure.axes:
        assert [c.get_label() for c in axes.containers] == ["xla", "reference"]
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    xla = figure.axes[0].containers[0][0]
    B, milliseconds = np.asarray(xla.get_xydata(), float).T
    np.testing.assert_allclose(B, [128, 512], rtol=0.05)
    np.testing.assert_allclose(milliseconds, [20, 80])
    assert figure.axes[0].get_ylabel() == "wall time of a call, ms"
    assert "2 cores of a cpu, float32" in figure.get_suptitle()


def test_figure_tells_dtypes_apart():
    rows = [drawn(), drawn(dtype="bfloat16", median_s="0.015")]
    figure = plots_routing.times(rows)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["xla, float32", "xla, bfloat16"]
    styles = [c[0].get_linestyle() for c in figure.axes[0].containers]
    assert styles == ["-", "--"]


ODD = (
    "--workloads=odd",
    "--batch_sizes=2,4",
    "--modes=forward",
    "--repeats=2",
    "--routings=",
)


def test_launcher_makes_rows_and_the_picture(tmp_path):
    output = tmp_path / "results" / "rows.csv"
    algorithms = ("--routings=uniform", "--layers=class_capsules")
    process = run("benchmark_routing", *ODD, *algorithms, f"--output={output}")
    assert process.returncode == 0, process.stderr
    of_algorithms = results.read(output.with_name("rows_algorithms.csv"))
    found = [(row["B"], row["routing"], row["status"]) for row in of_algorithms]
    assert found == [("2", "uniform", "ok"), ("4", "uniform", "ok")]
    rows = results.read(output)
    found = [(row["B"], row["implementation"], row["status"]) for row in rows]
    assert found == [*product("24", ("xla", "reference"), ["ok"])]
    titles = [line for line in process.stdout.splitlines() if "odd" in line]
    assert titles == [f"odd, B = {B}, forward, float32" for B in (2, 4)]
    assert process.stdout.count("\nreference ") == 2
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def run_with(lines: str, output: pathlib.Path) -> subprocess.CompletedProcess[str]:
    """The launcher in a process in which some lines of Python have run before."""
    program = (
        f"{lines}\nfrom experiments import benchmark_routing, launch\n"
        "launch.run(benchmark_routing.main)"
    )
    flags = (*ODD, "--noplot", f"--output={output}")
    return finish(start("-c", program, *flags), timeout_s=300)


def test_launcher_fails_after_all_rows_if_one_is_wrong(tmp_path):
    lines = (
        "from kernels import routing\n"
        "from kernels.routing.dynamic import api\n"
        "good = routing.IMPLEMENTATIONS['reference']\n"
        "wrong = lambda *args, **options: 1.01 * good(*args, **options)\n"
        "api.IMPLEMENTATIONS = {'wrong': wrong, 'reference': good}\n"
        "routing.IMPLEMENTATIONS = api.IMPLEMENTATIONS\n"
    )
    output = tmp_path / "rows.csv"
    process = run_with(lines, output)
    assert_one_line(process, "2 results have no time", "wrong")
    assert process.stdout.count("WRONG: off by") == 2
    assert [row["status"] for row in results.read(output)] == ["wrong", "ok"] * 2
    assert not output.with_suffix(".png").exists()


def test_rows_before_an_interruption_are_kept(tmp_path):
    lines = (
        "from kernels.tools import timing\n"
        "measure, done = timing.measure_in_turn, []\n"
        "def interrupted(calls, *, repeats):\n"
        "    if done: raise KeyboardInterrupt\n"
        "    done.append(1)\n"
        "    return measure(calls, repeats=repeats)\n"
        "timing.measure_in_turn = interrupted\n"
    )
    output = tmp_path / "rows.csv"
    process = run_with(lines, output)
    assert process.returncode == 130, process.stderr
    assert [row["B"] for row in results.read(output)] == ["2", "2"]


def test_a_damaged_file_is_refused_before_the_work(tmp_path):
    output = tmp_path / "rows.csv"
    output.write_text("a,b\n1\n")
    process = run("benchmark_routing", f"--output={output}")
    assert_one_line(process, str(output), "repair it or choose another")
    assert process.stdout == ""
    assert output.read_text() == "a,b\n1\n"
