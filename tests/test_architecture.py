"""The rooms of the package, and who may import whom."""

import ast
import dataclasses
import pathlib
import subprocess
import sys

import pytest

import capsjax

ROOT = pathlib.Path(__file__).parents[1]

# A room imports from rooms of lower floors, never from its own floor or above.
FLOORS = {
    "experiments": 9,
    "capsjax.reports": 8,
    "capsjax.benchmarks": 8,
    "capsjax.analyses": 7,
    "capsjax.inference": 7,
    "capsjax.training": 6,
    "capsjax.runs": 5,
    "capsjax.config": 4,
    "capsjax.models": 3,
    "capsjax.layers": 2,
    "capsjax.routings": 1,
    "capsjax.attacks": 1,
    "capsjax.losses": 0,
    "capsjax.normalization": 0,
    "kernels": -2,
}
# Ground that every room of capsjax stands on; it imports nothing but ground.
GROUND = {"capsjax.data", "capsjax.errors", "capsjax.fields", "capsjax.figures"}
FLOORS |= dict.fromkeys(GROUND, -1)
# Libraries, and the only files or folders that may import them.
KEEPERS = {
    "matplotlib": ("capsjax/figures.py", "figures"),
    "orbax": ("capsjax/training/checkpoint.py",),
    "tensorflow_datasets": ("capsjax/data/",),
    "array_record": ("capsjax/data/",),
    "submitit": ("capsjax/runs/executors/slurm",),
}
SOURCES = [
    path
    for top in ("kernels", "capsjax", "experiments")
    for path in sorted((ROOT / top).rglob("*.py"))
    if path != ROOT / "capsjax" / "__init__.py"  # It opens every room.
]


def room(name):
    """The room of a dotted name, or None for what is not ours."""
    parts = name.split(".")
    if parts[0] in ("kernels", "experiments"):
        return parts[0]
    return ".".join(parts[:2]) if parts[0] == "capsjax" else None


def imports():
    """Each source file, its room, and a name that it imports, wherever in it."""
    for path in SOURCES:
        where = path.relative_to(ROOT)
        own = room(".".join(where.with_suffix("").parts))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((where, own, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    yield where, own, f"{node.module}.{alias.name}"


def allowed(own, name):
    other = room(name)
    if other in (None, own) or {own, other} <= GROUND:
        return True
    return FLOORS[other] < FLOORS[own] and (own != "kernels")


def test_imports_go_down_and_never_up():
    wrong = [
        f"{path}: {name}" for path, own, name in imports() if not allowed(own, name)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("own", "other"),
    [
        ("kernels", "capsjax.errors"),
        ("capsjax.errors", "capsjax.config"),
        ("capsjax.losses", "capsjax.models"),
        ("capsjax.training", "capsjax.analyses.figures"),
        ("capsjax.models", "experiments.launch"),
    ],
)
def test_the_rule_can_fail(own, other):
    assert not allowed(own, other)


def test_the_rooms_are_few():
    names = {path.name for path in (ROOT / "capsjax").iterdir()}
    rooms = {name for name in names if not name.startswith("__")}
    assert len(rooms) <= 17, rooms


def test_private_names_stay_in_their_room():
    wrong = [
        f"{path}: {name}"
        for path, own, name in imports()
        if room(name) not in (None, own)
        and (
            any(part.startswith("_") for part in name.split("."))
            # The routing ops are entered by their door; the benchmarks tune them.
            or (name.startswith("kernels.routing.dynamic.") and "benchmarks" not in own)
        )
    ]
    assert wrong == []


@pytest.mark.parametrize("library", KEEPERS)
def test_libraries_have_their_keepers(library):
    wrong = {
        path.as_posix()
        for path, _, name in imports()
        if name.split(".")[0] == library
        and not any(keeper in path.as_posix() for keeper in KEEPERS[library])
    }
    assert wrong == set()


def test_models_import_nothing_of_each_other():
    """But those whose network is another's with other defaults."""
    extended = {"vb_capsules": "capsjax.models.capsules.matrix_capsules"}
    registered = {config.__module__ for config in capsjax.models.MODELS.values()}
    wrong = [
        f"{path}: {name}"
        for path, own, name in imports()
        if own == "capsjax.models"
        and path.name != "__init__.py"
        and name.startswith(tuple(registered))
        and name != extended.get(path.stem)
    ]
    assert wrong == []


def test_no_file_outside_models_names_a_field_of_one():
    """Whoever needs a capability asks the config for it; see capsjax.models.base."""
    offered = set(dir(capsjax.models.Config))
    fields = {
        field.name
        for config in capsjax.models.MODELS.values()
        for field in dataclasses.fields(config)
    } - offered
    # Words that layers, routings, losses, kernels or data use in a sense of their own.
    fields -= {"blocks", "channels", "kernels", "padding", "pool", "schedule"}
    fields -= {"routing_bias", "window"}
    for path in SOURCES:
        if "models" not in path.parts:
            nodes = list(ast.walk(ast.parse(path.read_text())))
            named = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
            named |= {str(node.arg) for node in nodes if isinstance(node, ast.keyword)}
            if "layers" not in path.parts:
                assert not named & fields, (path, named & fields)


def test_importing_the_library_takes_no_time_and_touches_nothing():
    program = (
        "import sys; import capsjax; "
        "assert not {'jax', 'matplotlib', 'tensorflow_datasets'} & set(sys.modules); "
        "[getattr(capsjax, name) for name in capsjax.__all__]; "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_public_names_have_docstrings():
    for name in capsjax.__all__:
        assert getattr(capsjax, name).__doc__, name
