"""The table of networks: size, operations, and errors here and as published.

Parameters and operations are counted from the structure, without any array: networks of
any size, on any machine.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from capsjax import data, models
from capsjax.data import Sizes
from capsjax.models import MODELS, Config
from capsjax.models.base import Published
from capsjax.runs import results
from capsjax.runs.results import Row

BEGIN = "<!-- networks: written by python -m experiments.networks -->"
END = "<!-- end of networks -->"

BEGIN_MEASURED = "<!-- measured: written by python -m experiments.networks -->"
END_MEASURED = "<!-- end of measured -->"

_IMAGENET = Sizes((224, 224, 3), 1_000)
# Of what a row says about its data, if they are not the official ones.
_OTHER_IMAGES = ("; the speaker ", "viewpoints", " training images of each class")
_AS_STORED = {"image_size": 0, "base": "mnist", "canvas": 40}
# For XLA's count, a convolution has to be one, as it is not on a CPU.
_COUNTED_FOR = ("cuda",)


class Network(NamedTuple):
    """A preset, and what is known without training it.

    Attributes:
        config: the preset's config.
        published: what its authors report.
        sizes: the images that it sees, and its classes.
        num_parameters: number of learned parameters.
        operations: multiplications and additions of the forward pass for an image, by
            XLA's count, which leaves out products with the zeros of padding.
    """

    config: Config
    published: Published
    sizes: Sizes
    num_parameters: int
    operations: float


def published() -> list[tuple[Config, Published]]:
    """All presets for which authors report something, in the order of `MODELS`."""
    return [
        (config.preset(one.preset), one)
        for config in MODELS.values()
        for one in config.PUBLISHED
    ]


def counted(config: Config, of: Published) -> Network:
    """Counts the parameters and operations of a network."""
    sizes = image_sizes(of)
    model = nnx.eval_shape(lambda: models.build(config, *sizes, nnx.Rngs(params=0)))
    graphdef, state = nnx.split(model)

    def scores(state: nnx.State, images: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, state)(images).scores

    images = jax.ShapeDtypeStruct((1, *sizes.image_shape), jnp.float32)
    lowered = (
        jax.jit(scores).trace(state, images).lower(lowering_platforms=_COUNTED_FOR)
    )
    costs = lowered.cost_analysis()
    return Network(config, of, sizes, models.num_parameters(model), costs["flops"])


def image_sizes(of: Published) -> Sizes:
    """The images of the data set, as the network sees them, and its classes."""
    known = {"imagenet": _IMAGENET}
    sizes = known.get(of.data) or data.sizes(of.data, **_AS_STORED)
    H, W, C = sizes.image_shape
    return sizes._replace(image_shape=(of.side or H, of.side or W, C))


def section(networks: Iterable[Network], rows: Sequence[Row]) -> str:
    """The table in Markdown.

    Args:
        networks: the networks, from `counted`.
        rows: rows of runs, from `capsjax.runs.results.training_row`, oldest first.
    """
    lines = []
    for network in networks:
        of, note = network.published, network.published.note
        error = "" if of.error_percent is None else f"{of.error_percent:g}"
        lines.append(
            [
                f"`{network.config.name}`, {of.preset}",
                f"{_title(of.data)}, " + "x".join(map(str, network.sizes.image_shape)),
                f"{network.num_parameters:,}",
                f"{network.operations / 1e6:,.1f}",
                error_here(network, rows),
                error + (f" ({note})" if error and note else note),
            ]
        )
    numeric = ("parameters", "forward MFLOP")
    header = ("network, preset", "images", *numeric, "error here, %", "published, %")
    return results.markdown_table(header, lines, numeric=numeric)


def measured(
    networks: Iterable[Network], rows: Sequence[Row], routings: Sequence[Row]
) -> str:
    """The shorter table in Markdown: what has an error here, and each routing.

    Args:
        networks: the networks, from `counted`.
        rows: rows of runs, as for `section`.
        routings: rows of runs of one network with several routing algorithms.
    """
    lines = []
    for network in networks:
        of = network.published
        if error := error_here(network, rows):
            known = "" if of.error_percent is None else f"{of.error_percent:g}"
            lines.append(
                [
                    f"`{network.config.name}`, {of.preset}",
                    _title(of.data),
                    f"{network.num_parameters:,}",
                    error,
                    known,
                ]
            )
    for (routing,), runs in results.grouped(routings, "routing").items():
        lines.append(
            [
                f"small CapsNet, `{routing}` routing",
                runs[0]["data"].split()[0].upper(),
                f"{int(runs[0]['num_parameters']):,}",
                _error_of(runs),
                "",
            ]
        )
    header = ("network", "images", "parameters", "error here, %", "published, %")
    return results.markdown_table(header, lines, numeric=("parameters",))


def _title(data_name: str) -> str:
    if data_name == "imagenet":
        return "ILSVRC, top-5"
    return data.names.in_words(data_name).removeprefix("the ")


def error_here(network: Network, rows: Sequence[Row]) -> str:
    """Test error of the network's runs; of those with most seeds, and of them the last.

    Empty if there is none. A run is the network's if model, data set and number of
    parameters are, and the data set is divided as officially. Seeds count together
    whichever commit trained them; of one seed, the last run counts.
    """
    title = _title(network.published.data)
    own = [
        row
        for row in rows
        if row["model"] == network.config.name
        and row["data"].startswith((f"{network.published.data} ", f"{title}, "))
        and not any(mark in row["data"] for mark in _OTHER_IMAGES)
        and row["num_parameters"] == str(network.num_parameters)
    ]
    groups: dict[tuple[str, str], dict[str, Row]] = {}
    own.sort(key=lambda row: row["started"])
    for (command, steps, _), members in results.seedless(own).items():
        group = groups.setdefault((command, steps), {})
        group |= {row["seed"]: row for row in members}
    if not groups:
        return ""
    return _error_of([*max(reversed(list(groups.values())), key=len).values()])


def _error_of(runs: Sequence[Row]) -> str:
    """Mean test error of runs that differ in the seed."""
    errors = [row.number("test_error_percent") for row in runs]
    seeds = f"{len(errors)} seeds" if len(errors) > 1 else "one seed"
    taken = f"{int(runs[0]['steps']):,} steps"
    return f"{results.mean_and_std(errors)} ({seeds}, {taken})"
