"""Perturbed poses, the figure made of them, and the launcher that draws it."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from matplotlib.image import imread

from capsjax import data, fields, models
from capsjax.analyses import perturbation
from capsjax.analyses.figures import perturbation as plots_perturbation
from capsjax.analyses.perturbation import classes_of, example_of, make_perturbations
from capsjax.data import Dataset, ImageSet
from capsjax.errors import UserError
from capsjax.runs.folder import RunFolder
from capsjax.training import augment
from capsjax.training import step as train_step
from capsjax.training.checkpoint import Checkpoints, Record
from capsjax.training.evaluate import make_reconstruct
from experiments.configs import digits, mnist
from tests.launching import run

LABEL = 4


@pytest.fixture(scope="module")
def digits_data() -> Dataset:
    return data.load("digits", validation_examples=180)


@pytest.fixture(scope="module")
def image(digits_data):
    return example_of(digits_data, LABEL, 0)


def made(**changes):
    """A config, and a model of it with its first parameters."""
    config = digits.get_config("quick")
    fields.update(config, changes)
    graphdef, state = train_step.create(config, (8, 8, 1), 10)
    return graphdef, config, state.variables


@pytest.fixture(scope="module")
def patches():
    """A model of patches of 7x7 pixels that routes once; the tests do not change it."""
    return made(**{"preprocess.crop": 7, "model.routing.iterations": 1})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_nothing_added_is_the_reconstruction(image, dtype):
    graphdef, config, variables = made(dtype=dtype)
    found = make_perturbations(graphdef, config)(variables, image, LABEL, (0.0,))
    _, drawn = make_reconstruct(graphdef, config)(
        variables, image[None], np.array([LABEL], np.int32)
    )
    assert found.shape == (16, 1, 8, 8, 1)
    assert found.dtype == jnp.float32
    expected = np.broadcast_to(np.asarray(drawn), (16, 8, 8, 1))
    tolerance = 1e-6 if dtype == "float32" else 0.01
    np.testing.assert_allclose(found[:, 0], expected, atol=tolerance)


def test_each_dimension_is_perturbed_by_hand(patches, image):
    """The decoder on poses that NumPy changes, of the right class and dimension."""
    graphdef, config, variables = patches
    found = make_perturbations(graphdef, config)(variables, image, LABEL)

    @jax.jit
    def classified(variables):
        seen = augment.for_evaluation(jnp.asarray(image[None]), config)
        labels = jnp.full(1, LABEL)
        output, _ = models.apply(graphdef, variables, seen, labels, "float32")
        return output.poses

    @jax.jit
    def decoded(params, poses):
        return nnx.merge(graphdef, params).decoder(poses, jnp.full(len(poses), LABEL))

    poses = np.repeat(np.asarray(classified(variables)), 16 * 11, axis=0)
    for q in range(16):
        for d, delta in enumerate(np.linspace(-0.25, 0.25, 11)):
            poses[11 * q + d, LABEL, q] += delta
    expected = decoded(variables.params, jnp.asarray(poses)).reshape(16, 11, 7, 7, 1)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    # Every dimension draws something else, and so does every step.
    flat = np.asarray(found)[:, [0, 10]].reshape(32, -1)
    distances = np.abs(flat[:, None] - flat[None]).max(axis=2) + np.eye(32)
    assert distances.min() > 1e-5


def test_other_classes_poses_do_not_matter(patches, image):
    """With one iteration their weights change their own poses alone."""
    graphdef, config, variables = patches

    perturbations = make_perturbations(graphdef, config)

    def drawn(factors):
        changed = nnx.clone(variables.params)
        weights = changed["class_capsules"]["weights"]
        weights[...] = weights[...] * jnp.float32(factors)[None, :, None, None]
        changed = variables.replace(params=changed)
        return np.asarray(perturbations(changed, image, LABEL))

    before = perturbations(variables, image, LABEL)
    others = np.where(np.arange(10) == LABEL, 1.0, 3.0)
    np.testing.assert_allclose(drawn(others), before, atol=1e-6)
    assert np.abs(drawn(4.0 - others) - before).max() > 1e-3


def test_the_papers_steps():
    deltas = perturbation.DELTAS
    np.testing.assert_allclose(deltas, np.linspace(-0.25, 0.25, 11), atol=1e-12)
    assert 0.0 in deltas


def test_models_without_a_decoder_are_refused():
    without = digits.get_config("quick")
    without.model = without.model.without_decoder()
    for config in (without, mnist.get_config("baseline")):
        with pytest.raises(UserError, match=f"{config.model.name} has no decoder"):
            make_perturbations(nnx.graphdef(nnx.Linear(1, 1, rngs=nnx.Rngs(0))), config)


def test_classes_and_examples_by_name_and_number(digits_data):
    assert classes_of(digits_data) == list(range(10))
    assert classes_of(digits_data, "7") == [7]
    with pytest.raises(UserError, match=r"no class 'seven'; choose one of 0, 1, 2"):
        classes_of(digits_data, "seven")
    sevens = digits_data.test.images[digits_data.test.labels == 7]
    for example in (3, len(sevens) - 1):
        found = example_of(digits_data, 7, example)
        np.testing.assert_array_equal(found, sevens[example])
    for example in (len(sevens), -1):
        with pytest.raises(UserError, match=f"example {example} .*{len(sevens)} test"):
            example_of(digits_data, 7, example)


def test_of_many_classes_the_first_ten_are_drawn(digits_data):
    """What is left out is said, and how to draw it; with ten classes nothing is."""
    assert perturbation.left_out(digits_data) == ""
    many = copy.copy(digits_data)
    names = tuple(f"class {number}" for number in range(200))
    object.__setattr__(many, "class_names", names)
    assert classes_of(many) == list(range(10))
    assert classes_of(many, "class 150") == [150]
    listed = ", ".join(names[10:20])
    assert perturbation.left_out(many) == (
        f"left out are 190 classes: {listed} and 180 more; "
        "--class_name='class 10' draws one"
    )
    with pytest.raises(UserError, match="class 49 and 150 more"):
        classes_of(many, "seven")


def test_images_with_several_labels_are_refused(digits_data):
    several = copy.copy(digits_data)
    labels = np.stack([digits_data.test.labels] * 2, axis=1)
    object.__setattr__(several, "test", ImageSet(digits_data.test.images, labels))
    with pytest.raises(UserError, match="several labels"):
        classes_of(several)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_the_figure_has_a_row_for_each_dimension(channels):
    Q, D, h, w = 3, 2, 5, 7
    rng = np.random.default_rng(0)
    image, drawn = rng.random((h, w, channels)), rng.random((Q, D, h, w, channels))
    figure = plots_perturbation.dimensions("the title", image, drawn, (-0.25, 0.0))
    beside, grid = figure.axes
    columns, rows = (
        [text.get_text() for text in labels]
        for labels in (grid.get_xticklabels(), grid.get_yticklabels())
    )
    assert columns == 2 * ["-0.25", "0"]  # Above and below.
    assert rows == ["dimension 1", "dimension 2", "dimension 3"]
    assert figure.get_suptitle() == "the title"

    shown = slice(None) if channels > 2 else 0
    np.testing.assert_array_equal(
        np.asarray(beside.images[0].get_array()), image[..., shown]
    )
    mosaic = np.asarray(grid.images[0].get_array())
    # Each picture lies around its row's and column's mark.
    for q, y in enumerate(grid.get_yticks()):
        for d, x in enumerate(grid.get_xticks()):
            top, left = round(y - (h - 1) / 2), round(x - (w - 1) / 2)
            np.testing.assert_array_equal(
                mosaic[top : top + h, left : left + w], drawn[q, d][..., shown]
            )
    assert mosaic[h].min() == 1  # White between them.


@pytest.fixture(scope="module")
def untrained_run(tmp_path_factory) -> RunFolder:
    """A folder with a config and a checkpoint, and nothing else."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "untrained")
    config = digits.get_config("quick")
    _, state = train_step.create(config, (8, 8, 1), 10)
    with folder.open(config, resume=False), Checkpoints(folder) as checkpoints:
        checkpoints.save("last", jax.device_get(state), Record())
    return folder


def test_the_launcher_draws_a_figure_into_the_runs_folder(untrained_run):
    flags = (f"--workdir={untrained_run.path}", "--class_name=3", "--example=1")
    process = run("perturb", *flags)
    assert process.returncode == 0, process.stderr
    (path,) = untrained_run.plots.iterdir()
    assert path.name == "perturbation_3.png"
    assert process.stdout.strip() == str(path)
    # The paper's 11 columns and 16 rows, large enough to be seen.
    H, W, _ = imread(path).shape
    assert H > 16 * 50
    assert W > 11 * 50
