"""How gradients reach the lower of many layers of capsules.

Squash shrinks short vectors to their square, so that it was feared that stacked layers
of capsules would starve those below, as sigmoids did. Here it is measured: the norm of
the loss's gradient with respect to each layer's transformation matrices, in CapsNets of
one to eight routed layers, as initialised and after training, for each algorithm.
"""

import itertools
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from capsjax import figures, losses, models
from capsjax.analyses import routing_comparison
from capsjax.analyses.figures import gradient_flow as plots
from capsjax.config import Config
from capsjax.data import Dataset
from capsjax.models import Variables
from capsjax.runs import results
from capsjax.runs.folder import RunFolder, write_json
from capsjax.runs.grid import Run
from capsjax.runs.progress import Progress
from capsjax.runs.results import Row
from capsjax.training import augment
from capsjax.training import step as train_step
from capsjax.training.trained import restore

_EXAMPLES = 128


class Cell(NamedTuple):
    """A network.

    Attributes:
        routing: the algorithm, see `routing_comparison.routing_config`.
        depth: number of routed layers, the class capsules' included.
    """

    routing: str
    depth: int

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return f"{routing_comparison.folder_name(self.routing)}_{self.depth}_layers"


def flags(cell: Cell, config: Config, width: int) -> list[str]:
    """The flags of experiments.train that make a network of the config's.

    Raises:
        UserError: see `routing_comparison.routed`.
    """
    own = routing_comparison.routed(config, cell.routing)
    hidden = (width,) * (cell.depth - 1)
    return [
        f"--config.model.hidden_capsules={hidden}",
        *routing_comparison.routing_flags(config, own),
    ]


def runs(
    cells: Sequence[Cell], config: Config, width: int, words: Sequence[str]
) -> list[Run]:
    """The trainings; see `flags`."""
    return [Run(cell.name, [*words, *flags(cell, config, width)]) for cell in cells]


def norms(
    graphdef: nnx.GraphDef, variables: Variables, config: Config, data: Dataset
) -> list[float]:
    """The gradient's norm for each routed layer, from the lowest to the classes'.

    Of the mean loss of the first training images, which are not augmented, with respect
    to the layer's transformation matrices and the parameters of its routing.
    """
    return _by_layer(_gradient(graphdef, config, data)(variables))


def _gradient(
    graphdef: nnx.GraphDef, config: Config, data: Dataset
) -> Callable[[Variables], nnx.State]:
    """The gradient for all parameters as a function that is compiled once."""
    images = augment.for_evaluation(jnp.asarray(data.train.images[:_EXAMPLES]), config)
    labels = jnp.asarray(data.train.labels[:_EXAMPLES])

    @jax.jit
    def gradient(variables: Variables) -> nnx.State:
        def loss(params: nnx.State) -> jax.Array:
            output, _ = models.apply(
                graphdef,
                variables.replace(params=params),
                images,
                labels,
                config.dtype,
            )
            found = losses.per_example(
                config.loss, output.scores, labels, step=variables.step
            )
            return jnp.mean(found["loss"])

        return jax.grad(loss)(variables.params)

    return gradient


def _by_layer(gradient: nnx.State) -> list[float]:
    layers = [*gradient.get("hidden_capsules", {}).values(), gradient["class_capsules"]]
    return [float(optax.tree.norm(layer)) for layer in layers]


def rows(workdir: pathlib.Path, cells: Sequence[Cell], data: Dataset) -> list[Row]:
    """A row for each layer of each run that has ended, at its start and its end."""
    found = []
    ended = [cell for cell in cells if RunFolder(workdir / cell.name).result.exists()]
    with Progress("measuring gradients", len(ended), unit="networks") as progress:
        for cell in ended:
            found += _rows(cell, RunFolder(workdir / cell.name), data)
            progress.advance()
    return found


def _rows(cell: Cell, folder: RunFolder, data: Dataset) -> list[Row]:
    config, result = folder.load_config(), folder.load_result()
    graphdef, state = train_step.create(config, data.image_shape, data.num_classes)
    gradient = _gradient(graphdef, config, data)
    trained = jax.device_put(restore(folder, data).variables)
    found = []
    for when, variables in (("start", state.variables), ("end", trained)):
        for layer, norm in enumerate(_by_layer(gradient(variables)), 1):
            columns = {
                "routing": cell.routing,
                "depth": cell.depth,
                "when": when,
                "layer": layer,
                "gradient_norm": norm,
                "steps": result["steps"],
                "test_error_percent": result["test_error_percent"],
            }
            found.append(results.training_row(folder, columns))
    return found


def write(
    workdir: pathlib.Path, output: pathlib.Path, cells: Sequence[Cell], data: Dataset
) -> str:
    """Writes ``gradients.csv``, ``gradients.md``, ``gradients.png`` and its caption.

    Returns:
        The table as Markdown.
    """
    output.mkdir(parents=True, exist_ok=True)
    found = rows(workdir, cells, data)
    results.write(output / "gradients.csv", found)
    text = _markdown(found, cells, data)
    (output / "gradients.md").write_text(text)
    if found:
        figures.save(plots.norms(found, data.title), output / "gradients.png")
        caption = (
            "Norm of the gradient for the parameters of each layer, from the lowest "
            "routed layer to the class capsules, in networks of different depths: "
            "dashed at the start, solid after training. What is not drawn is 0 in "
            "float32."
        )
        write_json(output / "captions.json", {"gradients.png": caption})
    return text


def cells(routings: Sequence[str], depths: Sequence[int]) -> list[Cell]:
    """All combinations."""
    return [Cell(*values) for values in itertools.product(routings, depths)]


def _markdown(rows: Sequence[Row], cells: Sequence[Cell], data: Dataset) -> str:
    groups = results.grouped(rows, "routing", "depth", "when")
    lines = []
    for cell in cells:
        line = [cell.routing, str(cell.depth)]
        error = "missing"
        for when in ("start", "end"):
            layers = groups.get((cell.routing, str(cell.depth), when), [])
            values = [row.number("gradient_norm") for row in layers]
            shown = f"{values[0]:.2g}, {values[-1]:.2g}" if values else ""
            line.append(shown)
            if layers:
                error = f"{layers[0].number('test_error_percent'):.2f}"
        lines.append([*line, error])
    header = [
        "routing",
        "routed layers",
        "gradient at the start: lowest, classes",
        "at the end",
        "test error, %",
    ]
    table = results.markdown_table(header, lines, numeric={*header[1:]})
    steps = results.listed(list(map(str, results.steps(rows)))) if rows else "no"
    return f"{table}\n\nOn {data.title}, after {steps} steps, one seed.\n"
