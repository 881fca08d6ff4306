"""Typed configs: flags, checks, help, and JSON of earlier versions."""

import dataclasses
import importlib
import json
import re
from typing import Any, ClassVar

import pytest

from capsjax import fields
from capsjax.config import Config
from capsjax.data import Source
from capsjax.errors import UserError
from capsjax.fields import field
from capsjax.losses import LOSSES
from capsjax.models import MODELS
from capsjax.models.capsules import capsnet
from capsjax.routings import ROUTINGS, dynamic
from tests.test_config import EVERY_CONFIG

# Flags.


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("batch_size", "64", 64),
        ("optimizer.learning_rate", "1e-4", 1e-4),
        ("optimizer.learning_rate", "1", 1.0),
        ("optimizer.learning_rate", ".5", 0.5),
        ("debug_nans", "true", True),
        ("debug_nans", "False", False),
        ("data.path", "1234", "1234"),
        ("data.path", "true", "true"),
        ("data.path", "none", "none"),
        ("data.path", "(1,2)", "(1,2)"),
        ("data.path", "", ""),
        ("model.decoder_units", "()", ()),
        ("model.decoder_units", "(8,)", (8,)),
        ("model.decoder_units", "8, 16", (8, 16)),
        ("model.decoder_units", "[8]", (8,)),
        ("augment.contrast", "(1, 2)", (1.0, 2.0)),
        ("init_layers", "()", ()),
        ("init_layers", "blocks.*, logits", ("blocks.*", "logits")),
        ("init_layers", "('blocks.*',)", ("blocks.*",)),
        ("optimizer.rates", "logits=10", ("logits=10",)),
        ("model.routing.implementation", "none", None),
        ("model.routing.implementation", "xla", "xla"),
        ("model.routing_iterations", "1", 1),
        ("model.leaky", "true", True),
        ("model.routing_implementation", "none", None),
    ],
)
def test_values_are_read_by_the_type_of_their_field(path, text, value):
    config = Config()
    fields.override(config, path, text)
    found = fields.flatten(config)[fields.current_path(config, path)]
    assert found == value
    assert type(found) is type(value)
    if isinstance(value, tuple):
        assert [type(each) for each in found] == [type(each) for each in value]


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("batch_size", "many", "batch_size is 'many'; it must be a whole number"),
        ("batch_size", "1.5", "batch_size is '1.5'"),
        ("batch_size", "true", "batch_size is 'true'; it must be a whole number"),
        ("batch_size", "none", "batch_size is 'none'; it must be a whole number"),
        ("optimizer.decay_rate", "x", "decay_rate is 'x'; it must be a number"),
        ("debug_nans", "1", "debug_nans is '1'; it must be true or false"),
        ("augment.contrast", "(1,)", "contrast is .*2 numbers"),
        ("augment.contrast", "1", "contrast is '1'; .*2 numbers such as"),
        ("model.decoder_units", "8", "decoder_units is '8'; .*such as"),
        ("model.decoder_units", "(1, 2.5)", "decoder_units is .*whole numbers"),
        ("model.routing_iteration", "1", r"did you mean model\.routing\.iterations"),
        ("model.leakey", "true", r"did you mean model\.routing\.leaky"),
        ("model.clas_dim", "1", r"did you mean model\.class_dim"),
        ("bach_size", "1", r"no field 'bach_size'; did you mean batch_size\?"),
        ("xyz", "1", "no field 'xyz'; it has seed, batch_size"),
        ("batch_size.x", "1", "no field 'batch_size.x'"),
        ("model.name", "capsnets", "did you mean capsnet"),
        ("model.routing.name", "unifrom", "did you mean uniform"),
        ("loss.name", "hinge", "known: margin, cross_entropy"),
        ("model", "capsnet", r"set config\.model\.name instead"),
        ("model.routing", "uniform", r"set config\.model\.routing\.name instead"),
        ("optimizer", "sgd", "set its fields instead"),
        ("batch_size", "{[]: 1}", "it must be a whole number"),
    ],
)
def test_invalid_fields_and_values_are_refused_with_advice(path, text, message):
    config = Config()
    with pytest.raises(UserError, match=message):
        fields.override(config, path, text)
    assert config == Config()


def test_a_name_chooses_a_config_and_keeps_the_fields_of_both():
    config = Config()
    fields.override(config, "model.routing.leaky", "true")
    fields.override(config, "model.routing.name", "uniform")
    found = fields.flatten(config)
    assert found["model.routing.name"] == "uniform"
    assert found["model.routing.leaky"] is True
    with pytest.raises(UserError, match=r"no field 'model\.routing\.iterations'"):
        fields.override(config, "model.routing.iterations", "2")
    config.loss.reconstruction_weight = 0.25
    fields.override(config, "loss.name", "cross_entropy")
    assert config.loss == LOSSES["cross_entropy"](reconstruction_weight=0.25)
    # To name the one that is there changes nothing in it.
    fields.override(config, "model.class_dim", "5")
    fields.override(config, "model.name", "capsnet")
    assert fields.flatten(config)["model.class_dim"] == 5
    fields.override(config, "model.name", "baseline_cnn")
    assert config.model == MODELS["baseline_cnn"]()
    paths = ["model.routing.leaky", "model.routing.name", "seed", "model.name"]
    assert sorted(paths, key=fields.names_first)[:2] == [
        "model.name",
        "model.routing.name",
    ]


def test_several_fields_at_once():
    config = Config()
    fields.update(config, {"model.class_dim": 4, "model.leaky": True, "seed": 3})
    found = fields.flatten(config)
    assert found["model.class_dim"] == 4
    assert found["model.routing.leaky"] is True
    assert found["seed"] == 3
    with pytest.raises(UserError, match=r"no field 'model\.class_dims'"):
        fields.update(config, {"model.class_dims": 4})
    with pytest.raises(UserError, match="chooses a config"):
        fields.update(config, {"model.name": "resnet"})


# Configs and their copies.


@dataclasses.dataclass(kw_only=True, slots=True)
class Inner(fields.Config):
    size: int = field(3, "Size.", at_least=1)


@dataclasses.dataclass(kw_only=True, slots=True)
class Outer(fields.Config):
    """A later version: ``inner.size`` was ``size``, and ``rule`` is new."""

    RENAMED: ClassVar[dict[str, str]] = {"size": "inner.size"}

    inner: Inner = field(Inner, "Inner.")
    rule: str = field("new", "Rule.", choices=("old", "new"), before="old")
    count: int = field(5, "Count.", above=0, at_most=9)
    widths: tuple[int, ...] = field((4, 2), "Widths.", at_least=1)
    limit: float | None = field(None, "Limit.", at_least=0, may_change=True)


def test_a_changed_copy_shares_nothing():
    first = Outer()
    second = first.replace(count=7)
    second.inner.size = 8
    assert first == Outer()
    assert second == Outer(count=7, inner=Inner(size=8))


def test_every_preset_is_made_anew():
    for config in (*MODELS.values(), *LOSSES.values()):
        for preset in config.PRESETS:
            fields.check(config.preset(preset))
    made = capsnet.Config.preset("cifar10", class_dim=4)
    assert made.class_dim == 4
    fields.update(made, {"routing.leaky": False})
    assert capsnet.Config.preset("cifar10").routing.leaky
    with pytest.raises(ValueError, match=r"capsnet has no preset 'papers'; .*paper"):
        capsnet.Config.preset("papers")


@pytest.mark.parametrize("registry", [MODELS, LOSSES, ROUTINGS])
def test_registries_name_each_config_once(registry):
    assert {name: config.name for name, config in registry.items()} == {
        name: name for name in registry
    }
    assert all(issubclass(config, fields.Named) for config in registry.values())


# JSON.


@pytest.mark.parametrize(("name", "words"), EVERY_CONFIG)
@pytest.mark.parametrize("size", ["", "quick"])
def test_every_shipped_config_comes_back_from_json(name, words, size):
    module: Any = importlib.import_module(f"experiments.configs.{name}")
    config = module.get_config(f"{words},{size}".strip(","))
    tree = json.loads(json.dumps(fields.to_json(config)))
    back = fields.from_json(Config, tree)
    assert back == config
    flat, expected = fields.flatten(back), fields.flatten(config)
    assert {path: type(x) for path, x in flat.items()} == {
        path: type(x) for path, x in expected.items()
    }


def test_json_holds_plain_values_and_names():
    assert fields.to_json(Outer()) == {
        "inner": {"size": 3},
        "rule": "new",
        "count": 5,
        "widths": [4, 2],
        "limit": None,
    }
    tree = fields.to_json(Config())
    assert tree["model"]["name"] == "capsnet"
    assert tree["model"]["routing"]["name"] == "dynamic"


def test_a_config_of_an_earlier_version_means_what_it_meant():
    """Renamed, new with a value for old runs, and new with the default for all."""
    old = fields.from_json(Outer, {"size": 7, "widths": [8]})
    assert old == Outer(inner=Inner(size=7), rule="old", count=5, widths=(8,))
    assert fields.from_json(Outer, json.loads(json.dumps(fields.to_json(old)))) == old
    model = {
        "routing_iterations": 2,
        "routing_implementation": "xla",
        "leaky": True,
        "stop_gradient": True,
    }
    run = fields.from_json(Config, {"model": {"name": "capsnet", **model}})
    routing = dynamic.Config(
        iterations=2, implementation="xla", leaky=True, stop_gradient=True
    )
    assert run == Config(
        model=capsnet.Config(routing=routing),
        data=Source(split="random", parts="train_and_test"),
    )


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"rules": "old"}, "config has a field 'rules' that this version lacks .*rule"),
        ({"inner": {"sizes": 1}}, r"config\.inner has a field 'sizes' .*mean size"),
        ({"count": "many"}, "config.count is 'many'; it must be a whole number"),
        ({"count": True}, "config.count is True; it must be a whole number"),
        ({"widths": [1, "x"]}, r"config\.widths is .*whole numbers"),
        ({"inner": 3}, "config.inner is 3; it must hold fields"),
        ([], "must hold fields"),
    ],
)
def test_a_config_that_cannot_be_read_is_refused(tree, message):
    with pytest.raises(UserError, match=message):
        fields.from_json(Outer, tree)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"model": {"name": "capsnets"}}, r"config\.model\.name 'capsnets'; .*capsnet"),
        ({"loss": {"name": "hinge"}}, r"config\.loss\.name 'hinge'; known: margin"),
        (
            {"model": {"routing": {"name": "unifrom"}}},
            r"config\.model\.routing\.name 'unifrom'; did you mean uniform",
        ),
        # Of another algorithm than the one that is named.
        (
            {"model": {"routing": {"name": "uniform", "iterations": 3}}},
            r"config\.model\.routing has a field 'iterations'",
        ),
        ({"model": 5}, r"config\.model is 5; it must hold fields"),
        ({"model": None}, r"config\.model is None; it must hold fields"),
        ({"loss": {"name": [1]}}, r"config\.loss\.name \[1\]; known: margin"),
    ],
)
def test_configs_of_other_versions_are_refused(tree, message):
    with pytest.raises(UserError, match=message):
        fields.from_json(Config, tree)


# Checks.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 0}, "config.count is 0; it must be above 0 and at most 9"),
        ({"count": 10}, "config.count is 10; it must be above 0 and at most 9"),
        ({"count": 1.5}, "config.count is 1.5; it must be a whole number"),
        ({"count": True}, "config.count is True; it must be a whole number"),
        ({"count": None}, "config.count is None; it must be a whole number"),
        ({"rule": "other"}, "unknown config.rule 'other'; choose one of old, new"),
        ({"rule": 1}, "config.rule is 1; it must be a word"),
        ({"inner.size": 0}, "config.inner.size is 0; it must be at least 1"),
        ({"widths": (3, 0)}, "config.widths is (3, 0); it must be at least 1"),
        ({"widths": 3}, "config.widths is 3; it must be whole numbers such as (8,16)"),
        ({"limit": -0.5}, "config.limit is -0.5; it must be at least 0"),
        ({"limit": float("nan")}, "config.limit is nan; it must be at least 0"),
        ({"limit": "x"}, "config.limit is 'x'; it must be a number or none"),
    ],
)
def test_values_out_of_bounds_are_refused(changes, message):
    config = Outer()
    fields.check(config)
    fields.update(config, changes)
    with pytest.raises(UserError, match=re.escape(message)):
        fields.check(config)


def test_the_bounds_themselves_are_within_them():
    fields.check(Outer(count=9, widths=(), limit=0.0))
    fields.check(Outer(count=1, widths=(1,), limit=None, inner=Inner(size=1)))


def test_facts_stand_by_the_paths_of_their_fields():
    facts = fields.facts(Outer())
    assert list(facts) == ["inner", "inner.size", "rule", "count", "widths", "limit"]
    assert [path for path, fact in facts.items() if fact.may_change] == ["limit"]
    assert facts["rule"].choices == ("old", "new")


# Help.


@pytest.mark.parametrize("model", MODELS)
def test_help_names_every_field_with_its_documentation(model):
    config = Config(model=MODELS[model]())
    text = fields.describe(config)
    for path, _, _, meta in fields.walk(config):
        # The line with the documentation follows the one with the field.
        assert re.search(
            rf"config\.{re.escape(path)}(\.name=\w+|=.*)?\n {{4}}{re.escape(meta.doc)}",
            text,
        )
    assert f"One of {', '.join(MODELS)}." in text


def test_the_flags_of_the_help_give_the_config_that_it_describes():
    """Also where a shell reads them, for there quotes hold a tuple together."""
    config = Config()
    changes = {"model.decoder_units": (8, 16), "model.routing.leaky": True}
    fields.update(config, {**changes, "augment.contrast": (0.5, 1.5), "seed": 7})
    flags = re.findall(r"^--config\.([\w.]+)=(.*)$", fields.describe(config), re.M)
    made = Config()
    for path, text in sorted(flags, key=lambda flag: fields.names_first(flag[0])):
        fields.override(made, path, text.strip('"'))
    assert made == config
