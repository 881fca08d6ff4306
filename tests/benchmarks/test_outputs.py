"""Where launchers write by default: never to files that are committed."""

import ast
import subprocess

from tests.launching import ROOT


def flags_by_launcher():
    """The file, name and default of every flag with a text."""
    for path in sorted((ROOT / "experiments").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
                "DEFINE_string"
            ):
                name, default = map(ast.literal_eval, node.args[:2])
                yield path.name, name, default


def test_the_results_are_written_by_name_only():
    wrong = [
        (launcher, name, default)
        for launcher, name, default in flags_by_launcher()
        if default and default.startswith("results")
        if (launcher, name) != ("speed.py", "rows")  # It reads them.
    ]
    assert wrong == []
    assert "/runs/" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_committed_report_of_the_compiler_is_renewed_by_name():
    planned = subprocess.run(
        ["make", "--dry-run", "compile-report"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    (command,) = (
        block
        for block in planned.stdout.replace("\\\n", " ").splitlines()
        if "experiments.compile_routing" in block
    )
    assert command.endswith("--output=results")
