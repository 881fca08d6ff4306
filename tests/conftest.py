"""Strictness for all tests, and fixtures that several of them need."""

import functools
import json
import os
import pathlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest

from capsjax import data
from capsjax.config import Config
from capsjax.data import Dataset
from experiments.configs import digits

_ROOT = pathlib.Path(__file__).parents[1]

jax.config.update("jax_num_cpu_devices", 4)
# A dtype or a rank that JAX would adjust silently is an error here.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_interrupts() -> Iterator[None]:
    """Also where a background job ignores it, here and in all child processes."""
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory) -> None:
    """Shares compiled programs among all tests of the session and their processes."""
    base = tmp_path_factory.getbasetemp()
    folder = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    options = {
        "jax_compilation_cache_dir": str(folder / "compilation_cache"),
        "jax_persistent_cache_min_compile_time_secs": 0.2,
    }
    for name, value in options.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)


@pytest.fixture(scope="session", autouse=True)
def compilation_without_optimizations() -> None:
    """Twice as fast, here and in all child processes: most programs run for no time."""
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def compilation_with_optimizations(monkeypatch) -> Iterator[None]:
    """For programs that run for long, or are looked at themselves."""
    monkeypatch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session")
def tfds_data_dir() -> str:
    """A folder of prepared TFDS data sets, or the test is skipped."""
    path = pathlib.Path(os.environ.get("CAPSJAX_TEST_DATA_DIR", _ROOT / "data"))
    if not (path / "mnist").is_dir():
        pytest.skip(
            "no prepared MNIST; name the folder in CAPSJAX_TEST_DATA_DIR to run this"
        )
    return str(path)


def _load_fixture(kind: str, name: str) -> dict[str, Any]:
    """The arrays of a file, or the test is skipped."""
    beside = _ROOT.parent / "shared" / "fixtures"
    folder = pathlib.Path(os.environ.get("CAPSJAX_TEST_FIXTURES_DIR", beside))
    path = folder / kind / f"{name}.npz"
    if not path.is_file():
        pytest.skip(
            f"no {path.name}; name the folder above {kind}/ in "
            "CAPSJAX_TEST_FIXTURES_DIR to run this"
        )
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="session")
def routing_fixture() -> Callable[[str], dict[str, Any]]:
    """What the code of an algorithm's authors computes, by the file's name.

    Arrays in float64, and ``meta``; the test is skipped where the files are missing.
    """

    def load(name: str) -> dict[str, Any]:
        found = _load_fixture("routing", name)
        return found | {"meta": json.loads(str(found["meta"]))}

    return load


@pytest.fixture(scope="session")
def network_fixture() -> Callable[[str], dict[str, Any]]:
    """Published parameters of a network, by the file's name; or the test is skipped."""
    return functools.partial(_load_fixture, "networks")


@pytest.fixture(scope="session")
def digits_data() -> Dataset:
    return data.load("digits", validation_examples=100)


@pytest.fixture
def tiny_config() -> Config:
    """A CapsNet on the digits that trains a step in milliseconds."""
    config = digits.get_config("quick")
    config.batch_size = 16
    config.max_steps = 6
    config.log_every_steps = 2
    config.num_devices = 1
    return config
