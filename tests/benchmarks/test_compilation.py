"""Rows and tables of compilations, from made-up ones."""

import itertools
import json
import pathlib
from unittest.mock import Mock

import pytest

from capsjax.benchmarks import compilation as compile_report
from capsjax.errors import UserError
from capsjax.runs import results
from kernels.routing.dynamic import compile_check
from kernels.routing.dynamic.compile_check import Check, Program, Programs
from kernels.routing.dynamic.workloads import WORKLOADS
from kernels.tools.ahead_of_time import Kernel
from tests.benchmarks.test_routing import ENV
from tests.tables import committed_columns, unpadded


def made_check(workload="mnist", dtype="float32", **changes) -> Check:
    kernels = {
        "routing_first": Kernel(registers=106, spilled_bytes=0, shared_bytes=65_536),
        "routing_pass": Kernel(registers=187, spilled_bytes=0, shared_bytes=106_496),
    }

    def program(temp_mb: int, custom_calls: int) -> Program:
        return Program(temp_mb * 10**6, custom_calls, compile_s=1.0)

    found = Check(
        workload=workload,
        sizes=WORKLOADS[workload],
        batch=128,
        dtype=dtype,
        config={"slots": 2, "scaled_inputs": "registers"},
        kernels=kernels,
        serialized=False,
        fused=Programs(forward=program(10, 6), both=program(20, 11)),
        textbook=Programs(forward=program(100, 0), both=program(80, 0)),
        jax="1.2.3",
    )
    return found._replace(**changes)


@pytest.mark.parametrize(
    ("registers", "shared_bytes", "blocks"),
    [
        (128, 1_000, 4),  # exactly 4 x 128 threads x 128 registers
        (129, 1_000, 3),  # registers are handed out by eights
        (168, 1_000, 3),
        (255, 1_000, 2),
        (32, 115_712, 2),  # exactly half, with what is reserved
        (32, 115_713, 1),
        (32, 232_448, 1),  # the most that a block can have
    ],
)
def test_blocks_that_fit(registers, shared_bytes, blocks):
    kernel = Kernel(registers, 0, shared_bytes)
    assert compile_report.blocks_per_multiprocessor(kernel) == blocks


def test_rows_have_provenance_and_all_columns():
    first, second = compile_report.kernel_rows(made_check(), ENV)
    assert committed_columns(compile_report.KERNELS) <= first.keys()
    assert (first["kernel"], second["kernel"]) == ("routing_first", "routing_pass")
    assert (second["registers"], second["blocks_per_multiprocessor"]) == ("187", "2")
    forward, both = compile_report.memory_rows(made_check(), ENV)
    assert committed_columns(compile_report.MEMORY) <= forward.keys()
    assert [row["fused_to_textbook"] for row in (forward, both)] == ["0.1", "0.25"]
    assert both["config"] == "slots=2 scaled_inputs=registers"
    expected = {
        **{"started": ENV["started"], "commit": "abc", "jax": "1.2.3"},
        "device": "NVIDIA H200 (ahead of time)",
        **{"I": "1152", "J": "10", "leaky": "False"},
    }
    assert expected.items() <= first.items() & forward.items()


def test_tables_have_the_worst_of_each_kernel(tmp_path):
    stats = Kernel(registers=120, spilled_bytes=0, shared_bytes=2_048)
    larger = Kernel(registers=200, spilled_bytes=0, shared_bytes=1_024)
    found = [
        made_check(),
        made_check(dtype="bfloat16", kernels={"routing_pass": larger}),
        made_check("classes100", kernels={"softmax_stats": stats}),
    ]
    compile_report.write(tmp_path, found, ENV)
    text = unpadded((tmp_path / compile_report.TABLES).read_text())
    assert "| workload | routing_first | routing_pass | softmax_stats |" in text
    assert "| mnist | 106 / 64 / 3 | 200 / 104 / 2 | |" in text
    assert "| classes100 | | | 120 / 2 / 4 |" in text
    line = "10.0 / 100.0 = 0.100 | 20.0 / 80.0 = 0.250 | 6, 11 |"
    assert f"| mnist | 128 | bfloat16 | {line}" in text
    for end in ("spill registers: none", "serialized: none", "JAX 1.2.3, commit abc"):
        assert f"{end}\n" in text

    assert len(results.read(tmp_path / compile_report.KERNELS)) == 4
    compile_report.write(tmp_path, found[:1], ENV)
    assert len(results.read(tmp_path / compile_report.MEMORY)) == 2


def test_tables_name_what_spills_and_waits(tmp_path):
    kernels = {"routing_pass": Kernel(255, 8, 1_024)}
    found = [made_check(), made_check("wide", kernels=kernels, serialized=True)]
    compile_report.write(tmp_path, found, ENV)
    text = (tmp_path / compile_report.TABLES).read_text()
    assert "spill registers: routing_pass in wide 128 float32\n" in text
    assert "serialized: in wide 128 float32\n" in text


def test_a_check_survives_its_way_between_processes(monkeypatch):
    found = made_check()
    printed = json.dumps(compile_check.to_json(found))
    monkeypatch.setattr(compile_check, "run_child", lambda *_: json.loads(printed))
    assert compile_check.check("mnist", 128, "float32") == found


def test_problems_are_all_combinations():
    workloads, dtypes = ["mnist", "odd"], ["float32", "float16"]
    found = compile_report.problems(workloads, ["128"], dtypes)
    assert found == [*itertools.product(workloads, [128], dtypes)]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("minst", "128", "float32"), "minst.*mnist"),
        (("mnist", "128", "float64"), "float64.*bfloat16"),
        (("mnist", "many", "float32"), "'many' is not a number of examples"),
        (("mnist", "0", "float32"), "'0' is not a number of examples"),
    ],
)
def test_bad_flags_are_refused(flags, words):
    with pytest.raises(UserError, match=words):
        compile_report.problems(*([flag] for flag in flags))


@pytest.mark.parametrize("python", ["/absent/python", "sh"])
def test_an_absent_environment_is_reported(python):
    with pytest.raises(UserError, match=f"{python} is not.*make test-gpu-compile"):
        next(compile_report.compile_all([], python))


def test_each_problem_is_compiled_by_the_interpreter(monkeypatch):
    check = Mock(side_effect=[made_check(), made_check()])
    monkeypatch.setattr(compile_check, "check", check)
    monkeypatch.setattr(compile_check, "has_compiler", lambda python: True)
    problems = compile_report.problems(["mnist"], ["1", "2"], ["float32"])
    assert len(list(compile_report.compile_all(problems, "sh"))) == 2
    assert [call.args for call in check.call_args_list] == problems
    assert pathlib.Path(check.call_args.kwargs["python"]).is_absolute()
