"""The launchers as a user meets them: in a process of their own."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from capsjax.runs import results
from tests.launching import DIGITS, ROOT, assert_one_line, run

MNIST = "--config=experiments/configs/mnist.py:paper,quick"


def test_train_evaluate_and_record(tmp_path):
    """The whole path once, warnings as errors for our own part of it."""
    workdir = f"--workdir={tmp_path / 'run'}"
    # By the name that the field had in earlier versions.
    renamed = "--config.model.routing_iterations=2"
    trained = run("train", DIGITS, workdir, "--config.max_steps=5", renamed)
    assert trained.returncode == 0, trained.stderr
    assert "test accuracy" in trained.stdout
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["model"]["routing"]["iterations"] == 2
    assert (tmp_path / "run" / "plots" / "curves.png").exists()

    rows = tmp_path / "evaluations.csv"
    evaluated = run("evaluate", workdir, f"--output={rows}")
    assert evaluated.returncode == 0, evaluated.stderr
    found = json.loads(evaluated.stdout)
    assert found["step"] == 5
    assert found["accuracy"] == result["test_accuracy"]
    (row,) = results.read(rows)
    assert row.number("accuracy") == pytest.approx(found["accuracy"], rel=1e-5)
    assert row["params_sha256"] == result["params_sha256"]
    assert (row["views"], row["split"], row["seed"]) == ("one", "test", "0")

    other = run("evaluate", workdir, "--data_name=mnist", "--data_dir=/nonexistent")
    assert_one_line(other, "no mnist", "/nonexistent")
    view = run("evaluate", workdir, "--novel_viewpoint=azimuth_familiar")
    assert_one_line(view, "digits has no viewpoints")

    again = run("train", DIGITS, workdir, "--config.max_steps=5")
    assert_one_line(again, "is not empty", "--resume")
    changed = run("train", DIGITS, workdir, "--resume", "--config.seed=3", renamed)
    assert_one_line(changed, "another config: seed was 0 and is now 3; resume")

    for path in (tmp_path / "run" / "checkpoints" / "last").rglob("*"):
        if path.is_file() and path.stat().st_size > 50_000:
            path.write_bytes(path.read_bytes()[:1000])
    assert_one_line(run("evaluate", workdir), "damaged", "checkpoints/last/5")

    output = tmp_path / "results" / "training.csv"
    recorded = run("record", f"--workdirs={tmp_path / 'run'}", f"--output={output}")
    assert recorded.returncode == 0, recorded.stderr
    assert "--workdir=DIR" in output.with_suffix(".md").read_text()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([DIGITS, "--config.model.routing_iteration=1"], ["model.routing.iterations"]),
        ([DIGITS, "--config.batch_size=many"], ["batch_size", "many"]),
        ([DIGITS, "--config.batch_size=0"], ["batch_size is 0", "at least 1"]),
        ([DIGITS, "--config.batch_size=4000"], ["4000", "1257"]),
        ([DIGITS, "--config.data.name=minst"], ["minst", "mnist"]),
        ([DIGITS, "--config.model.name=capsnets"], ["capsnets", "mean capsnet?"]),
        ([DIGITS, "--config.optimizer.name=lion"], ["lion", "adam"]),
        ([DIGITS, "--config.model.routing_iterations=0"], ["routing.iterations is 0"]),
        ([DIGITS, "--config.model.routing_implementation=cuda"], ["cuda", "xla"]),
        ([DIGITS, "--config.model.conv1_kernel=9"], ["8x8", "too small"]),
        ([DIGITS, "--unknown=1"], ["unknown", "--help"]),
        (["--config=experiments/configs/mnist.py:papers"], ["papers", "authors_code"]),
        (["--config=experiments/configs/absent.py"], ["absent.py"]),
        ([MNIST, "--data_dir=/nonexistent"], ["/nonexistent", "prepare_data"]),
        ([DIGITS, "--config.data.name=npz", "--config.data.path=/no.npz"], ["/no.npz"]),
        (["--config=digit"], ["no config digit", "digits, digits_resnet"]),
        ([], ["give --config=FILE; --help"]),
    ],
)
def test_bad_flags_are_one_clear_line(tmp_path, flags, words):
    process = run("train", f"--workdir={tmp_path / 'run'}", *flags)
    assert_one_line(process, *words)
    assert not (tmp_path / "run").exists()


def test_bad_images_are_one_clear_line(tmp_path):
    """Labels that do not fit the images; the run folder is not made."""
    path = tmp_path / "mine.npz"
    np.savez(path, images=np.zeros((40, 8, 8), np.uint8), labels=np.arange(39))
    process = run(
        "train",
        DIGITS,
        "--config.data.name=npz",
        f"--config.data.path={path}",
        f"--workdir={tmp_path / 'run'}",
    )
    assert_one_line(process, "40", "39")
    assert not (tmp_path / "run").exists()


def test_evaluate_without_a_run_is_one_clear_line(tmp_path):
    assert_one_line(run("evaluate", f"--workdir={tmp_path}"), "config.json")


def test_compiling_without_its_environment_is_one_clear_line(tmp_path):
    output = tmp_path / "results"
    process = run("compile_routing", "--python=/absent/python", f"--output={output}")
    assert_one_line(process, "/absent/python", "make test-gpu-compile")
    process = run("compile_routing", "--workloads=minst", f"--output={output}")
    assert_one_line(process, "minst", "mnist")
    assert not output.exists()


def test_all_fields_of_a_model_or_a_config_file_are_explained():
    for name, words in {
        "capsnet": [
            "--config.model.class_dim=16",
            "Dimensions Q of the class capsules.",
        ],
        "experiments/configs/digits.py": ["--config.model.conv1_channels=64"],
    }.items():
        process = run("train", f"--help_config={name}")
        assert process.returncode == 0, process.stderr
        for word in words:
            assert word in process.stdout
    spaced = run("train", "--help_config", "resnet")
    assert "--config.model.blocks=3" in spaced.stdout
    assert_one_line(run("train", "--help_config=capsnets"), "capsnets", "capsnet,")


def test_configs_are_found_by_name_from_anywhere(tmp_path):
    process = subprocess.run(
        [sys.executable, "-m", "experiments.train", "--help_config=mnist:authors_code"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert "--config.loss.name=margin" in process.stdout


SETTINGS, DATA, RUN = (
    ("config", "help_config"),
    ("data_dir",),
    ("workdir", "checkpoint", "data_path"),
)
DEVICES = ("coordinator_address", "num_processes", "distributed", "cpu_devices")
MANY = ("workdir", "jobs", "launcher", "slurm_minutes", "dry_run")


RUNS = ("workdirs", "checkpoint", "data_path", "output")
HELPS: list[tuple[str, tuple[str, ...]]] = [
    ("train", (*SETTINGS, *DATA, "workdir", "[no]resume", *DEVICES)),
    ("evaluate", (*DATA, *RUN, "split", "data_name")),
    ("predict", (*DATA, *RUN, "top", "output", "max_value", "[no]compare")),
    ("perturb", (*DATA, *RUN, "class_name")),
    ("export", (*DATA, *RUN, "platforms")),
    ("prepare_data", (*DATA, "dataset", "source_dir")),
    ("record", ("workdirs",)),
    ("report", ("output",)),
    ("benchmark_training", (*SETTINGS, "image_shape", "mode")),
    ("benchmark_routing", ("workloads",)),
    ("benchmark_scaling", (*SETTINGS, "devices")),
    ("compile_routing", ("python",)),
    ("run_on_gpu", DATA),
    ("speed", ("rows", "document")),
    ("sweep_routing", (*SETTINGS, *DATA, *MANY, "iterations")),
    ("reproduce", (*DATA, *MANY, "table")),
    ("affnist", (*DATA, *MANY, "scale")),
    ("ensemble", (*SETTINGS, *DATA, *MANY, "members")),
    ("compare_routing", (*DATA, *MANY, "scale")),
    ("gradient_flow", (*DATA, *MANY)),
    ("data_efficiency", (*DATA, *MANY, "networks")),
    ("train_matched", (*DATA, *MANY, "networks", "target")),
    ("scrambled_parts", (*DATA, *MANY, "scale", "scrambled_share", "quarters")),
    ("inspect_network", (*DATA, *RUN, "parts")),
    ("attack", (*DATA, *RUNS, "attacks", "detection")),
    ("transform_test", (*DATA, *RUNS, "transformations")),
    ("find_features", ("output",)),
    ("networks", ("rows", "document", "readme")),
    ("scaling_model", ("networks", "document")),
    ("publish", (*DATA, *RUN)),
]


def test_every_launcher_is_in_the_list():
    launchers = {
        path.stem
        for path in (ROOT / "experiments").glob("*.py")
        if "launch.run(main" in path.read_text()
    }
    assert {launcher for launcher, _ in HELPS} == launchers


@pytest.mark.parametrize(("launcher", "names"), HELPS)
def test_help_explains_every_flag_and_none_of_absls(launcher, names):
    process = run(launcher, "--help")
    assert process.returncode == 0
    assert f"python -m experiments.{launcher}" in process.stdout
    for name in names:
        # A flag's line, with its explanation in the next.
        pattern = rf"^  --(\[no\])?{re.escape(name.removeprefix('[no]'))}\b.*\n      \w"
        assert re.search(pattern, process.stdout, re.MULTILINE), name
    for name in ("verbosity", "logger_levels", "pdb", "helpfull", "only_check_args"):
        assert f"--{name}" not in process.stdout
        assert f"--[no]{name}" not in process.stdout


@pytest.mark.parametrize(
    ("launcher", "flags", "count", "words"),
    [
        ("reproduce", ["--scale=paper"], 24, ["mnist.py:authors_code", "=()"]),
        ("affnist", ["--scale=cpu"], 2, ["expanded.py:paper,cpu", "=0.9923"]),
        ("ensemble", [DIGITS, "--config.max_steps=3"], 7, ["seed=6", "max_steps=3"]),
        (
            "train_matched",
            ["--networks=mnist:paper:cpu,deep_convnet", "--config.max_steps=3"],
            6,
            ["--config=mnist:paper,cpu", "max_steps=3", "accuracy=0.99", "seed=2"],
        ),
        (
            "scrambled_parts",
            ["--seeds=2", "--scrambled_share=0.01", "--nodoodles"],
            8,
            ["scrambled_share=0.01", "without_doodles=true", "accuracy=0.97"],
        ),
    ],
)
def test_a_dry_run_prints_the_commands(tmp_path, launcher, flags, count, words):
    workdir = tmp_path / "runs"
    process = run(launcher, *flags, f"--workdir={workdir}", "--dry_run")
    assert process.returncode == 0, process.stderr
    commands = process.stdout.splitlines()
    assert len(commands) == count
    assert all(c.startswith("python -m experiments.train --config=") for c in commands)
    for word in words:
        assert word in process.stdout
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("launcher", "flags", "words"),
    [
        ("reproduce", ["--cells=mnist_r2"], ["mnist_r2", "mnist_r3_decoder"]),
        ("affnist", ["--images=digits", "--data_dir=x"], ["--data_dir"]),
        ("ensemble", [DIGITS, "--config.seed=3"], ["--config.seed", "--members"]),
        ("train_matched", ["--networks=mnist,cifar10"], ["cifar10 and mnist", "data"]),
        ("train_matched", ["--config.seed=3"], ["--config.seed", "--seeds"]),
        ("scrambled_parts", ["--networks=mnist"], ["data mnist", "faces:capsnet"]),
    ],
)
def test_bad_flags_of_experiments_are_one_clear_line(tmp_path, launcher, flags, words):
    process = run(launcher, *flags, f"--workdir={tmp_path / 'runs'}")
    assert_one_line(process, *words)
    assert not (tmp_path / "runs").exists()
