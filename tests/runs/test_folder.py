"""The run folder's files: whole or not at all, and never another run's."""

import json

import pytest

from capsjax import fields
from capsjax.config import Config
from capsjax.errors import UserError
from capsjax.models.capsules import capsnet
from capsjax.routings import dynamic
from capsjax.runs.folder import RunFolder, write_json
from capsjax.runs.metrics import MetricsWriter, read_metrics


def made(path, config: Config | None = None) -> RunFolder:
    """The folder of a run that has begun."""
    folder = RunFolder(path)
    with folder.open(config or Config(), resume=False):
        return folder


def test_a_config_comes_back_as_it_was(tmp_path):
    config = Config()
    fields.update(config, {"model.routing_iterations": 5})
    assert made(tmp_path / "run", config).load_config() == config


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for resume in (False, True):
        with (
            pytest.raises(UserError),
            RunFolder(tmp_path).open(Config(), resume=resume),
        ):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_the_way_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    folder = RunFolder(tmp_path / "file" / "run")
    with (
        pytest.raises(UserError, match="cannot write"),
        folder.open(Config(), resume=False),
    ):
        pass


def test_resume_may_train_longer(tmp_path):
    folder, config = made(tmp_path), Config(num_epochs=99)
    with folder.open(config, resume=True):
        folder.record_config(config)
    assert folder.load_config().num_epochs == 99


def test_how_own_images_are_divided_matters_for_own_images_only(tmp_path):
    """Runs of earlier versions have the former way, also those that read none."""
    folders = {}
    for name in ("mnist", "folder"):
        folders[name] = RunFolder(tmp_path / name)
        config = Config()
        config.data.name, config.data.split = name, "random"
        with folders[name].open(config, resume=False):
            pass
    config.data.split = "content"
    with (
        pytest.raises(UserError, match=r"data\.split was 'random'"),
        folders["folder"].open(config, resume=True),
    ):
        pass
    config.data.name = "mnist"
    with folders["mnist"].open(config, resume=True):
        pass


def test_a_run_of_an_earlier_version_has_the_new_fields_defaults(tmp_path):
    """It can be evaluated, and goes on."""
    routing = dynamic.Config(iterations=5, implementation="xla", leaky=True)
    config = Config(model=capsnet.Config(routing=routing))
    folder = made(tmp_path, config)
    old = json.loads(folder.config.read_text())
    # Routing was no part of its own.
    del old["model"]["routing"]
    old["model"] |= {
        "routing_iterations": 5,
        "routing_implementation": "xla",
        "leaky": True,
        "stop_gradient": False,
    }
    del old["data"]["canvas"], old["augment"]["rotation"], old["diagnose_routing"]
    write_json(folder.config, old)
    assert folder.load_config() == config
    with folder.open(config, resume=True):
        pass
    config.augment.rotation = 5.0
    with (
        pytest.raises(UserError, match=r"augment\.rotation was 0\.0 and is now 5\.0"),
        folder.open(config, resume=True),
    ):
        pass


def test_a_damaged_json_file_is_named(tmp_path):
    folder = made(tmp_path)
    folder.config.write_text(folder.config.read_text()[:20])
    with pytest.raises(UserError, match=r"config\.json"):
        folder.load_config()


def test_write_json_leaves_the_old_file_if_it_fails(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        write_json(path, {"new": object()})
    assert json.loads(path.read_text()) == {"old": 1}


def test_metrics_after_the_resumed_step_are_dropped(tmp_path):
    """Also a last line that was cut short when the run was killed."""
    folder = RunFolder(tmp_path)
    with MetricsWriter(folder, resume_step=0) as writer:
        for step in (10, 20, 30):
            writer.write(step, "train", {"loss": 1 / step})
    with folder.metrics.open("a") as file:
        file.write('{"step": 40, "spl')
    with MetricsWriter(folder, resume_step=20) as writer:
        writer.write(25, "validation", {"loss": 0.5})
    rows = read_metrics(folder.metrics)
    assert [(row["step"], row["split"]) for row in rows] == [
        (10, "train"),
        (20, "train"),
        (25, "validation"),
    ]
