"""``python -m capsjax`` names every command."""

import subprocess
import sys

from capsjax import __main__ as listing
from tests.launching import ROOT


def test_every_launcher_is_listed(tmp_path):
    """From any folder, and without starting JAX, which would take a second."""
    words = [sys.executable, "-X", "importtime", "-m", "capsjax"]
    listed = subprocess.run(
        words, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    for name in listing.commands(ROOT / "experiments"):
        assert f"  {name} " in listed.stdout
    for line in ("train ", "Trains a model and leaves a run folder"):
        assert line in listed.stdout
    assert "launch " not in listed.stdout
    assert "| jax\n" not in listed.stderr
