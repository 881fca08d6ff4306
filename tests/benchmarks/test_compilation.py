"""Rows and tables of compilations, from made-up ones."""

import pathlib

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
    found = Check(
        workload=workload,
        sizes=WORKLOADS[workload],
        batch=128,
        dtype=dtype,
        config={"slots": 2, "scaled_inputs": "registers"},
        kernels=kernels,
        serialized=False,
        fused=Programs(
            forward=Program(temp_bytes=10_000_000, custom_calls=6, compile_s=1.0),
            both=Program(temp_bytes=20_000_000, custom_calls=11, compile_s=2.0),
        ),
        textbook=Programs(
            forward=Program(temp_bytes=100_000_000, custom_calls=0, compile_s=1.0),
            both=Program(temp_bytes=80_000_000, custom_calls=0, compile_s=2.0),
        ),
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
    assert second["registers"] == "187"
    assert second["blocks_per_multiprocessor"] == "2"
    forward, both = compile_report.memory_rows(made_check(), ENV)
    assert committed_columns(compile_report.MEMORY) <= forward.keys()
    assert forward["fused_to_textbook"] == "0.1"
    assert both["fused_to_textbook"] == "0.25"
    assert both["config"] == "slots=2 scaled_inputs=registers"
    for row in (first, forward):
        assert row["started"] == ENV["started"]
        assert row["commit"] == "abc"
        assert row["device"] == "NVIDIA H200 (ahead of time)"
        assert row["jax"] == "1.2.3"
        assert (row["I"], row["J"], row["leaky"]) == ("1152", "10", "False")


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
    assert "spill registers: none\n" in text
    assert "serialized: none\n" in text
    assert "JAX 1.2.3, commit abc\n" in text

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
    monkeypatch.setattr(
        compile_check, "run_child", lambda *_: compile_check.to_json(found)
    )
    assert compile_check.check("mnist", 128, "float32") == found


def test_problems_are_all_combinations():
    found = compile_report.problems(["mnist", "odd"], ["128"], ["float32", "float16"])
    assert found == [
        ("mnist", 128, "float32"),
        ("mnist", 128, "float16"),
        ("odd", 128, "float32"),
        ("odd", 128, "float16"),
    ]


@pytest.mark.parametrize(
    ("workload", "batch_size", "dtype", "words"),
    [
        ("minst", "128", "float32", "minst.*mnist"),
        ("mnist", "128", "float64", "float64.*bfloat16"),
        ("mnist", "many", "float32", "whole number.*many"),
        ("mnist", "0", "float32", "whole number.*0"),
    ],
)
def test_what_does_not_exist_is_said(workload, batch_size, dtype, words):
    with pytest.raises(UserError, match=words):
        compile_report.problems([workload], [batch_size], [dtype])


@pytest.mark.parametrize("python", ["/absent/python", "sh"])
def test_absent_environment_is_said(python):
    with pytest.raises(UserError, match=f"{python} is not.*make test-gpu-compile"):
        compile_report.compile_all([], python, lambda: None)


def test_each_problem_is_compiled_by_the_interpreter(monkeypatch):
    called: list[tuple[object, ...]] = []

    def check(*problem, python):
        called.append((*problem, python))
        return made_check()

    monkeypatch.setattr(compile_check, "check", check)
    monkeypatch.setattr(compile_check, "has_compiler", lambda python: True)
    problems = compile_report.problems(["mnist"], ["1", "2"], ["float32"])
    done: list[int] = []
    found = compile_report.compile_all(problems, "sh", lambda: done.append(1))
    assert len(found) == len(done) == len(called) == 2
    *problem, python = called[1]
    assert problem == ["mnist", 2, "float32"]
    assert pathlib.Path(str(python)).is_absolute()
