"""Table 1, from rows of made runs."""

import json

from capsjax.analyses import paper_table
from capsjax.analyses.paper_table import CELLS
from capsjax.runs.folder import locked
from tests.launching import assert_one_line, run
from tests.runs.test_results import made_run


def make_runs(workdir, errors, steps=300_000):
    for name, of_cell in errors.items():
        for seed, error in enumerate(of_cell):
            made_run(workdir / f"{name}_seed{seed}", seed, error, steps=steps)


def lines(text):
    """Cells of the table's lines, without the header."""
    return [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if line.startswith("|")
    ][2:]


def test_the_papers_numbers():
    """Sabour, Frosst and Hinton 2017, table 1."""
    assert {cell.name: cell.paper for cell in CELLS} == {
        "mnist_baseline": "0.39",
        "mnist_r1_no_decoder": "0.34 ± 0.032",
        "mnist_r1_decoder": "0.29 ± 0.011",
        "mnist_r3_no_decoder": "0.35 ± 0.036",
        "mnist_r3_decoder": "0.25 ± 0.005",
        "multimnist_baseline": "8.1",
        "multimnist_r1_decoder": "7.5",
        "multimnist_r3_decoder": "5.2",
    }


def test_mean_and_deviation_stand_beside_the_papers(tmp_path):
    make_runs(tmp_path, {cell.name: (0.2, 0.3, 0.4) for cell in CELLS})
    text = paper_table.write(tmp_path, tmp_path, CELLS, 3, "mnist", "paper")
    for line, cell in zip(lines(text), CELLS, strict=True):
        assert line[0] == {"mnist": "MNIST", "multimnist": "MultiMNIST"}[cell.data]
        assert line[-4:] == ["3", "300,000", "0.30 ± 0.100", cell.paper]
    assert not any(note in text for note in ("Not the paper's", "Not MNIST", "Scale"))
    assert (tmp_path / "table1.csv").read_text().count("\n") == 1 + 3 * len(CELLS)


def test_short_small_and_missing_runs_are_said_to_be_so(tmp_path):
    make_runs(tmp_path, {CELLS[0].name: (1.0, 2.0)}, steps=500)
    make_runs(tmp_path, {CELLS[4].name: (0.25,)})
    text = paper_table.write(tmp_path, tmp_path, CELLS, 2, "digits", "cpu")
    table = lines(text)
    assert table[0][-4:-1] == ["2", "500", "1.50 ± 0.707"]
    assert table[4][-4:-1] == ["1 of 2", "300,000", "0.25"]
    assert table[1][-4:-1] == ["0 of 2", "-", "not run"]
    assert "**Not the paper's experiment**: 1 of 8 cells" in text
    assert "**Not MNIST**: the images are scikit-learn's digits" in text
    names = ["scikit-learn's digits"] * 5 + ["pairs of scikit-learn's digits"] * 3
    assert [line[0] for line in table] == names
    assert "the paper's, on MNIST or MultiMNIST" in text.splitlines()[0]
    assert "Scale cpu: the networks are smaller" in text


def test_notes_of_many_commits_devices_and_data_are_of_bounded_size(tmp_path):
    for seed in range(8):
        env = {name: f"{name}{seed}" for name in ("commit", "cpu", "data")}
        made_run(tmp_path / f"{CELLS[0].name}_seed{seed}", seed, 1.0, env=env)
    text = paper_table.write(tmp_path, tmp_path, CELLS, 8, "mnist", "paper")
    shown = "; ".join(f"commit{seed}" for seed in range(5))
    assert f"Commit: {shown} and 3 more." in text
    assert "Data: data0; data1" in text
    assert "2 cores of cpu4 and 3 more." in text
    assert not any(f"{name}5" in text for name in env)


def test_the_table_of_another_process_is_not_touched(tmp_path):
    """While another process trains there, and where the runs have other flags."""
    for name in ("table1.csv", "table1.md"):
        (tmp_path / name).write_text("another's")
    flags = ("--scale=smoke", "--images=digits", "--seeds=1", f"--workdir={tmp_path}")
    with locked(tmp_path, "runs trainings"):
        assert_one_line(run("reproduce", *flags), "another process", "runs trainings")
    other = {paper_table.run_name(cell, 0): ["--config=other.py"] for cell in CELLS}
    (tmp_path / "grid.json").write_text(json.dumps(other))
    for name in other:
        (tmp_path / name).mkdir()
    assert_one_line(run("reproduce", *flags), "was started with")
    for name in ("table1.csv", "table1.md"):
        assert (tmp_path / name).read_text() == "another's"
