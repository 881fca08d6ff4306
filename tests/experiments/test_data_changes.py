"""Own images that change after a run was trained on them."""

import json

import numpy as np
import pytest
from PIL import Image

from capsjax.data import Source
from capsjax.errors import UserError
from capsjax.runs.folder import RunFolder
from capsjax.training.train import train
from capsjax.training.trained import evaluate, restore
from experiments import launch
from tests.launching import assert_one_line, run

CLASSES = ("cat", "dog", "fox")


def draw(root, name, numbers, channels=1):
    """Images of one class: a bright square at a place of the class's own."""
    place = CLASSES.index(name)
    (root / name).mkdir(parents=True, exist_ok=True)
    for number in numbers:
        pixels = np.random.default_rng(number).integers(0, 50, (8, 8, 3), np.uint8)
        pixels[2 * place : 2 * place + 3, 2 * place : 2 * place + 3] = 250
        shown = pixels if channels == 3 else pixels[..., 0]
        Image.fromarray(shown).save(root / name / f"{number}.png")


@pytest.fixture
def trained(tiny_config, tmp_path):
    """A run that has ended, its config, and its folder of images."""
    root = tmp_path / "photos"
    for name in CLASSES:
        draw(root, name, range(40))
    tiny_config.data.name, tiny_config.data.path = "folder", str(root)
    tiny_config.data.validation_examples = 6
    tiny_config.max_steps = 2
    folder = RunFolder(tmp_path / "run")
    train(tiny_config, launch.load_data(tiny_config, None), folder)
    return folder, tiny_config, root


def test_unchanged_images_pass(trained):
    folder, config, _ = trained
    data = launch.load_run_data(folder, None)
    assert (
        evaluate(restore(folder, data), data.test).metrics["accuracy"]
        == (folder.load_result()["test_accuracy"])
    )
    config.max_steps = 3
    train(config, data, folder, resume=True)
    assert folder.load_result()["steps"] == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda root: (root / "cat").rename(root / "kitten"),
            "were cat, dog, fox, and are now dog, fox, kitten",
        ),
        (lambda root: draw(root, "dog", [77]), "in place of"),
        (lambda root: (root / "fox/3.png").unlink(), "in place of"),
        (lambda root: (root / "fox/3.png").rename(root / "dog/f3.png"), "in place of"),
        (lambda root: draw(root, "fox", [3], channels=3), "with 3 channels"),
        (
            lambda root: Image.new("L", (8, 8)).save(root / "fox/3.png"),
            "content|in place of",
        ),
    ],
    ids=["renamed", "added", "removed", "moved", "in colour", "overwritten"],
)
def test_changed_images_are_refused(change, message, trained):
    folder, config, root = trained
    change(root)
    with pytest.raises(UserError, match=rf"not those of the run in .*{message}"):
        launch.load_run_data(folder, None)
    with pytest.raises(UserError, match=rf"not those of the run in .*{message}"):
        train(config, launch.load_data(config, None), folder, resume=True)


def test_images_at_a_relative_path_are_found_from_elsewhere(
    trained, tmp_path, monkeypatch
):
    _, config, root = trained
    config.data.path = root.name
    monkeypatch.chdir(tmp_path)
    folder = RunFolder(tmp_path / "relative")
    train(config, launch.load_data(config, None), folder)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = launch.load_run_data(folder, None)
    assert found.title == "the folder photos"
    # From the beginning, the path is the user's.
    with pytest.raises(UserError, match=f"no folder {tmp_path}/elsewhere/photos;"):
        launch.load_data(config, None)
    # Both may have moved together.
    root.rename(tmp_path / "elsewhere/photos")
    assert launch.load_run_data(folder, None).content == found.content


def test_every_command_refuses(trained):
    folder, _, root = trained
    (root / "cat").rename(root / "kitten")
    for launcher in ("evaluate", "export", "perturb"):
        process = run(launcher, f"--workdir={folder.path}")
        assert_one_line(process, "and are now dog, fox, kitten")


def test_other_images_are_evaluated_on_purpose(trained, tmp_path):
    """With some of the run's classes, which are numbered as the run numbers them."""
    folder, _, _ = trained
    others = tmp_path / "others"
    for name in ("fox", "dog"):
        draw(others, name, range(100, 130))
    process = run("evaluate", f"--workdir={folder.path}", f"--data_path={others}")
    assert process.returncode == 0, process.stderr
    assert "note: not the run's data: image folder others" in process.stderr
    found = json.loads(process.stdout)
    assert found["data"].startswith("image folder others")

    data = launch.load_run_data(folder, None, {"path": str(others)})
    assert data.class_names == CLASSES
    assert set(data.test.labels) == {1, 2}
    assert evaluate(restore(folder, data), data.test).metrics["accuracy"] == (
        pytest.approx(found["accuracy"])
    )

    (others / "dog").rename(others / "wolf")
    process = run("evaluate", f"--workdir={folder.path}", f"--data_path={others}")
    assert_one_line(process, "the classes wolf, which the run does not know")


def test_python_code_is_refused_classes_in_another_order(trained):
    folder, _, _ = trained
    data = launch.load_run_data(folder, None)
    turned = data.with_classes(CLASSES[::-1], np.array([2, 1, 0], np.int32))
    with pytest.raises(
        UserError, match="were cat, dog, fox, and are now fox, dog, cat"
    ):
        restore(folder, turned)


def test_the_data_dir_is_the_runs(tmp_path, tiny_config):
    tiny_config.max_steps = 1
    folder = RunFolder(tmp_path / "run")
    data_dir = tmp_path / "sets"
    data_dir.mkdir()
    train(tiny_config, launch.load_data(tiny_config, str(data_dir)), folder)
    assert launch.load_run_data(folder, None).data_dir == str(data_dir)
    assert launch.load_run_data(folder, str(tmp_path)).data_dir == str(tmp_path)
    data_dir.rmdir()
    assert launch.load_run_data(folder, None).data_dir is None


def test_moved_images_are_the_runs_if_nothing_else_has_changed(trained, tmp_path):
    folder, config, root = trained
    moved = tmp_path / "archive/pictures"
    moved.parent.mkdir()
    root.rename(moved)
    workdir, where = f"--workdir={folder.path}", f"--data_path={moved}"
    assert_one_line(run("export", workdir), f"no folder {root}")
    done = run("export", workdir, where, f"--output={tmp_path}/net.jaxexport")
    assert done.returncode == 0, done.stderr
    done = run("evaluate", workdir, where)
    assert done.returncode == 0, done.stderr
    assert "not the run's data" not in done.stderr
    accuracy = folder.load_result()["test_accuracy"]
    assert json.loads(done.stdout)["accuracy"] == accuracy

    config.data.path, config.max_steps = str(moved), 3
    train(config, launch.load_data(config, None), folder, resume=True)
    assert folder.load_result()["steps"] == 3
    assert launch.load_run_data(folder, None).title == "the folder pictures"

    (moved / "fox/3.png").unlink()
    changed = run("perturb", workdir, where)
    assert_one_line(changed, "not those of the run", "in place of")


def test_runs_that_are_compared_take_moved_images(trained, tmp_path):
    folder, _, root = trained
    root.rename(tmp_path / "moved")
    flags = (f"--workdirs={folder.path}", f"--output={tmp_path}/out")
    assert_one_line(run("transform_test", *flags), f"no folder {root}")
    draw(tmp_path / "others", "cat", range(40))
    other = run("transform_test", *flags, f"--data_path={tmp_path}/others")
    assert_one_line(other, "not those of the run")


def test_only_recorded_own_images_can_move(trained, tmp_path, tiny_config):
    folder, config, root = trained
    folder.data.unlink()
    moved = str(root.rename(tmp_path / "moved"))
    with pytest.raises(UserError, match=rf"did not record .* back to {root}"):
        launch.load_run_data(folder, None, moved_to=moved)
    config.data.path = moved
    with pytest.raises(UserError, match=r"another config: data\.path was"):
        train(config, launch.load_data(config, None), folder, resume=True)

    tiny_config.data = Source(name="digits", validation_examples=100)
    tiny_config.max_steps = 1
    other = RunFolder(tmp_path / "digits")
    train(tiny_config, launch.load_data(tiny_config, None), other)
    with pytest.raises(UserError, match="not trained on own images; leave --data_path"):
        launch.load_run_data(other, None, moved_to=moved)


def test_a_run_that_used_no_validation_part_goes_on_without_it(trained, tmp_path):
    _, config, root = trained
    for name in CLASSES:
        for part, numbers in (("test", range(40, 50)), ("val", range(50, 55))):
            draw(root / part, name, numbers)
        (root / "train").mkdir(exist_ok=True)
        (root / name).rename(root / "train" / name)
    folder = RunFolder(tmp_path / "earlier")
    config.data.parts = "train_and_test"
    train(config, launch.load_data(config, None), folder)
    saved = json.loads(folder.config.read_text())
    del saved["data"]["parts"]  # As a version wrote it that had no such field.
    folder.config.write_text(json.dumps(saved))

    config.data.parts, config.max_steps = "given", 3
    with pytest.raises(UserError, match=r"data\.parts was 'train_and_test'"):
        train(config, launch.load_data(config, None), folder, resume=True)
    launch.read_as_before(config, folder, given=["batch_size"])
    train(config, launch.load_data(config, None), folder, resume=True)
    assert folder.load_result()["steps"] == 3
    assert len(launch.load_run_data(folder, None).validation) == 6

    config.data.parts = "given"
    launch.read_as_before(config, folder, given=["data.parts"])
    assert config.data.parts == "given"
    assert len(launch.load_data(config, None).validation) == 15


def test_training_warns_of_classes_without_test_images(tmp_path, tiny_config, capsys):
    root = tmp_path / "photos"
    for name in CLASSES:
        draw(root / "train", name, range(10))
    draw(root / "test", "cat", range(20, 25))
    tiny_config.data.name, tiny_config.data.path = "folder", str(root)
    tiny_config.data.validation_examples, tiny_config.max_steps = 3, 1
    data = launch.load_data(tiny_config, None)
    assert "warning: no test image of dog, fox: " in capsys.readouterr().err
    assert train(tiny_config, data, tmp_path / "run") is not None
