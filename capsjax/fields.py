"""Typed configs: each field once, with its default, documentation and bounds.

A config is a dataclass that extends `Config`, with fields made by `field`. A *named*
config, such as a model's, stands in a registry (name -> class); a field with a
``registry`` holds any one of it. Flags (`override`), help (`describe`), checks
(`check`) and the JSON form (`to_json`, `from_json`) all come from these declarations.

A config that an earlier version saved stays readable: fields added since get their
default, or the value that `Meta.before` gives for such runs; renamed fields are found
by the name that they had (`Config.RENAMED`).
"""

import ast
import contextlib
import copy
import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, Self

from capsjax.errors import UserError

_META = "capsjax"
_MISSING: Any = object()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Meta:
    """Facts about a field besides its type and default.

    Attributes:
        doc: one line of documentation.
        at_least: smallest value, or None.
        above: bound that every value exceeds, or None.
        at_most: largest value, or None.
        choices: the only values; empty if there is no such list.
        registry: named configs of which the field holds one; empty for other fields.
        before: value for configs saved before the field existed; by default the
            field's default.
        may_change: whether a run may be resumed with another value.
        changes_result: whether runs that differ in this field alone are different
            experiments; repetitions, and runs that agree up to rounding, are not.
    """

    doc: str
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    choices: tuple[Any, ...] = ()
    registry: Mapping[str, type["Named"]] = dataclasses.field(default_factory=dict)
    before: Any = _MISSING
    may_change: bool = False
    changes_result: bool = True


def field(default: Any, doc: str, **facts: Any) -> Any:
    """Declares a field of a config.

    Args:
        default: immutable value, or a function that makes a config.
        doc: one line of documentation.
        **facts: further attributes of `Meta`.
    """
    metadata = {_META: Meta(doc=doc, **facts)}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(kw_only=True, slots=True)
class Config:
    """Base class of all typed configs, which are dataclasses with these options.

    Attributes:
        RENAMED: dotted paths of fields, by the paths that they had before.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {}

    def replace(self, **changes: Any) -> Self:
        """A deep copy with some fields changed."""
        return dataclasses.replace(copy.deepcopy(self), **changes)


@dataclasses.dataclass(kw_only=True, slots=True)
class Named(Config):
    """Base class of the configs that stand in a registry.

    Attributes:
        name: name in the registry.
        PRESETS: values of fields that belong together, by the name of the preset.
    """

    name: ClassVar[str] = ""
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @classmethod
    def preset(cls, preset: str, **changes: Any) -> Self:
        """The config of a preset, with some fields changed.

        Raises:
            ValueError: there is no such preset.
        """
        if preset not in cls.PRESETS:
            known = ", ".join(cls.PRESETS) or "none"
            raise ValueError(f"{cls.name} has no preset {preset!r}; known: {known}")
        return cls(**copy.deepcopy({**cls.PRESETS[preset], **changes}))


class Field(NamedTuple):
    """A field of a config.

    Attributes:
        path: dotted path from the root, such as ``"model.class_dim"``.
        value: current value.
        type: annotated type.
        meta: facts about it.
    """

    path: str
    value: Any
    type: Any
    meta: Meta


def walk(config: Config, prefix: str = "") -> Iterator[Field]:
    """Every field of a config, each followed by the fields of the config in it."""
    for own in dataclasses.fields(config):
        value, path = getattr(config, own.name), f"{prefix}{own.name}"
        yield Field(path, value, own.type, own.metadata[_META])
        if isinstance(value, Config):
            yield from walk(value, f"{path}.")


def flatten(config: Config) -> dict[str, Any]:
    """Values by dotted path; of a named config also its name."""
    flat: dict[str, Any] = {}
    for path, value, _, _ in walk(config):
        if not isinstance(value, Config):
            flat[path] = value
        elif isinstance(value, Named):
            flat[f"{path}.name"] = value.name
    return flat


def facts(config: Config) -> dict[str, Meta]:
    """Facts about every field, by dotted path."""
    return {path: meta for path, _, _, meta in walk(config)}


def describe(config: Config) -> str:
    """All fields with their values and documentation, as help for a terminal."""
    lines = []
    for path, value, _, meta in walk(config):
        notes = [meta.doc]
        if meta.choices:
            notes.append(f"One of {', '.join(map(str, meta.choices))}.")
        if isinstance(value, Named):
            notes.append(f"One of {', '.join(meta.registry)}.")
            lines.append(f"\n--config.{path}.name={value.name}")
        elif isinstance(value, Config):
            lines.append(f"\nconfig.{path}")
        else:
            lines.append(f"--config.{path}={_as_text(value)}")
        lines.append(f"    {' '.join(notes)}")
    return "\n".join(lines)


def _as_text(value: Any) -> str:
    if isinstance(value, tuple):
        return f'"{value}"'
    return str(value).lower() if isinstance(value, bool | None) else str(value)


# Flags.


def override(config: Config, path: str, text: str) -> None:
    """Sets a field to a value given as text, as on a command line.

    ``PATH.name`` exchanges a named config for another one of its registry; fields that
    both have keep their values.

    Args:
        config: the root; changed in place.
        path: dotted path of the field.
        text: the value: a number, a word, ``true`` or ``false``, ``none`` where None is
            allowed, or a tuple such as ``(256,128)``, ``256,128`` or ``()``.

    Raises:
        UserError: no such field, or a text that is not a value of it.
    """
    holder, name, path = _find(config, path)
    if name == "name" and isinstance(holder, Named):
        parent, own_name, _ = _find(config, path.removesuffix(".name"))
        own = _declaration(parent, own_name)
        chosen = choose(own.metadata[_META].registry, text, f"config.{path}")
        if chosen is not type(holder):
            new = {own.name for own in dataclasses.fields(chosen)}
            old = {own.name for own in dataclasses.fields(holder)}
            setattr(
                parent, own_name, chosen(**{n: getattr(holder, n) for n in new & old})
            )
        return
    wanted = _declaration(holder, name).type
    if isinstance(held := getattr(holder, name), Config):
        fields = "its fields" if not isinstance(held, Named) else f"config.{path}.name"
        raise UserError(f"config.{path} is not a value; set {fields} instead")
    value = _parse(text, wanted)
    if value is _MISSING:
        raise UserError(f"config.{path} is {text!r}; it must be {_in_words(wanted)}")
    setattr(holder, name, value)


def update(config: Config, changes: Mapping[str, Any]) -> None:
    """Sets fields by their dotted paths, such as ``{"model.class_dim": 8}``.

    Raises:
        UserError: there is no such field, or it is a name, which goes with a config.
    """
    for path, value in changes.items():
        holder, name, _ = _find(config, path)
        if name == "name" and isinstance(holder, Named):
            raise UserError(f"{path} chooses a config; set that field to a config")
        setattr(holder, name, value)


def names_first(path: str) -> tuple[bool, int]:
    """Sort key for the paths of overrides: what chooses fields comes before them."""
    return not path.endswith(".name"), path.count(".")


def current_path(config: Config, path: str) -> str:
    """The path of a field today, by this one or by the one that it had before.

    Raises:
        UserError: there is no such field.
    """
    return _find(config, path)[2]


def choose(registry: Mapping[str, type[Named]], name: Any, what: str) -> type[Named]:
    """The config class of a name.

    Raises:
        UserError: unknown name; suggests the closest one.
    """
    if not isinstance(name, str) or name not in registry:
        close = difflib.get_close_matches(str(name), registry, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UserError(f"unknown {what} {name!r}; {hint}known: {', '.join(registry)}")
    return registry[name]


def _find(config: Config, path: str) -> tuple[Config, str, str]:
    """The config that holds a field, the field's name in it, and its path today."""
    holder, before, rest = config, "", path
    while True:
        rest = holder.RENAMED.get(rest, rest)
        name, _, rest = rest.partition(".")
        own = {one.name for one in dataclasses.fields(holder)}
        if not rest and (name in own or (name == "name" and isinstance(holder, Named))):
            return holder, name, f"{before}{name}"
        inner = getattr(holder, name) if name in own else None
        if not isinstance(inner, Config):
            break
        holder, before = inner, f"{before}{name}."
    known = {name: name for name in flatten(config)} | {
        f"{before}{old}": f"{before}{new}" for old, new in holder.RENAMED.items()
    }
    close = {known[name]: None for name in difflib.get_close_matches(path, known, n=3)}
    hint = f"it has {', '.join(known)}"
    if close:
        hint = f"did you mean {' or '.join(close)}?"
    raise UserError(f"the config has no field {path!r}; {hint}")


def _declaration(holder: Config, name: str) -> dataclasses.Field:
    return next(own for own in dataclasses.fields(holder) if own.name == name)


def _parse(text: str, wanted: Any) -> Any:
    """The value that a text stands for, or `_MISSING`."""
    words = {"true": True, "false": False, "none": None}
    candidates: list[Any] = [words[text.lower()]] if text.lower() in words else []
    with contextlib.suppress(SyntaxError, TypeError, ValueError):
        candidates.append(_coerced(ast.literal_eval(text), wanted))
    for candidate in [*candidates, text]:
        if _fits(candidate, wanted):
            return candidate
    return _MISSING


def _coerced(value: Any, wanted: Any) -> Any:
    """Whole numbers as floats and lists as tuples, where the type asks for these."""
    if typing.get_origin(wanted) is tuple and isinstance(value, list | tuple):
        inner = typing.get_args(wanted)[0]
        return tuple(_coerced(each, inner) for each in value)
    return float(value) if wanted is float and type(value) is int else value


def _fits(value: Any, wanted: Any) -> bool:
    """Whether a value is of an annotated type."""
    inner = typing.get_args(wanted)
    if isinstance(wanted, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if typing.get_origin(wanted) is tuple:
        if inner[-1] is Ellipsis:
            inner = inner[:1] * len(value) if isinstance(value, tuple) else inner
        return (
            isinstance(value, tuple)
            and len(value) == len(inner)
            and all(map(_fits, value, inner))
        )
    # In Python True is an int.
    return (
        type(value) is wanted if wanted in (int, float) else isinstance(value, wanted)
    )


def _in_words(wanted: Any) -> str:
    inner = typing.get_args(wanted)
    if isinstance(wanted, types.UnionType):
        return " or ".join(map(_in_words, inner))
    if typing.get_origin(wanted) is tuple:
        count = "" if inner[-1] is Ellipsis else f"{len(inner)} "
        kind = "whole numbers" if inner[0] is int else "numbers"
        return f"{count}{kind} such as {'(8,16)' if inner[0] is int else '(0.5,1.5)'}"
    words = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "a word",
    }
    return words.get(wanted, "none")


# Checks.


def check(config: Config, where: str = "config") -> None:
    """Refuses values of another type than their field's, or outside its bounds.

    Args:
        config: with all configs in it.
        where: path of the config in the whole, for the errors.

    Raises:
        UserError: names the first such field, its value, and what it may be.
    """
    for path, value, wanted, meta in walk(config, f"{where}."):
        if isinstance(value, Config):
            continue
        if not _fits(_coerced(value, wanted), wanted):
            raise UserError(f"{path} is {value!r}; it must be {_in_words(wanted)}")
        if meta.choices and value not in meta.choices:
            known = ", ".join(map(str, meta.choices))
            raise UserError(f"unknown {path} {value!r}; choose one of {known}")
        if value is None:
            continue
        bounds = (
            ("at least", meta.at_least, lambda a, b: a >= b),
            ("above", meta.above, lambda a, b: a > b),
            ("at most", meta.at_most, lambda a, b: a <= b),
        )
        given = [
            (words, bound, holds) for words, bound, holds in bounds if bound is not None
        ]
        # NaN is within no bounds. Of a tuple, each value is within them.
        values = value if isinstance(value, tuple) else (value,)
        if not all(holds(each, bound) for each in values for _, bound, holds in given):
            text = " and ".join(f"{words} {bound:g}" for words, bound, _ in given)
            raise UserError(f"{path} is {value}; it must be {text}")


# JSON.


def to_json(config: Config) -> dict[str, Any]:
    """The config as nested dicts of what JSON holds; tuples become lists."""
    own: dict[str, Any] = {"name": config.name} if isinstance(config, Named) else {}
    for one in dataclasses.fields(config):
        value = getattr(config, one.name)
        if isinstance(value, Config):
            value = to_json(value)
        own[one.name] = list(value) if isinstance(value, tuple) else value
    return own


def from_json[C: Config](cls: type[C], tree: Any, where: str = "config") -> C:
    """The config that `to_json` wrote, today or in an earlier version.

    Args:
        cls: its class.
        tree: nested dicts.
        where: path of the tree in the whole, for the errors.

    Raises:
        UserError: a name or a field that this version does not know, or a value of
            another type.
    """
    if not isinstance(tree, dict):
        raise UserError(f"{where} is {tree!r}; it must hold fields")
    known = {own.name: own for own in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for old, value in tree.items():
        first, _, rest = cls.RENAMED.get(old, old).partition(".")
        if first == "name" and issubclass(cls, Named):
            continue
        if first not in known:
            close = difflib.get_close_matches(old, known, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise UserError(
                f"{where} has a field {old!r} that this version lacks{hint}"
            )
        if rest:
            nested.setdefault(first, {})[rest] = value
        else:
            values[first] = value
    for name, own in known.items():
        meta: Meta = own.metadata[_META]
        path = f"{where}.{name}"
        made = own.default_factory() if callable(own.default_factory) else own.default
        if isinstance(made, Config):
            inner, inner_class = values.get(name, {}), type(made)
            if isinstance(inner, dict):
                inner = inner | nested.get(name, {})
            if meta.registry and isinstance(inner, dict) and "name" in inner:
                inner_class = choose(meta.registry, inner["name"], f"{path}.name")
            values[name] = from_json(inner_class, inner, path)
        elif name in values:
            values[name] = _coerced(values[name], own.type)
            if not _fits(values[name], own.type):
                raise UserError(
                    f"{path} is {values[name]!r}; it must be {_in_words(own.type)}"
                )
        elif meta.before is not _MISSING:
            values[name] = meta.before
    return cls(**values)
