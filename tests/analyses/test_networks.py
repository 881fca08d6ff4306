"""The table of networks: operations counted by hand, and rows that belong to one."""

from capsjax.analyses import networks
from capsjax.analyses.networks import counted
from capsjax.models.base import Published
from capsjax.models.cnns import deep_convnet
from capsjax.runs import results
from capsjax.runs.results import Row
from tests.launching import ROOT

MNIST = "mnist 3.0.1 in TensorFlow Datasets form"


def test_operations_of_a_network_counted_by_hand():
    """Products with the zeros of padding are left out: 3n - 2 pixels of three rows."""
    config = deep_convnet.Config(channels=(4,), dense_units=5)
    network = counted(config, Published("textbook", "mnist", 0.62))
    inside = (3 * 28 - 2) ** 2
    expected = 2 * inside * (1 * 4 + 4 * 4) + 2 * (14 * 14 * 4 * 5 + 5 * 10)
    # Biases, activations and pooling add one operation for each number.
    features = 28 * 28 * 4
    assert expected < network.operations < expected + 8 * features
    assert network.num_parameters == 40 + 148 + 3_925 + 60
    assert network.sizes.image_shape == (28, 28, 1)


def test_sides_and_the_images_of_imagenet():
    of = Published("cifar10", "cifar10", 10.6, side=24)
    assert networks.image_sizes(of) == ((24, 24, 3), 10)
    large = Published("", "imagenet", None)
    assert networks.image_sizes(large) == ((224, 224, 3), 1_000)


def row(
    seed,
    error,
    *,
    model="deep_convnet",
    parameters=123_552,
    data=MNIST,
    commit="abc",
    flags="",
):
    return Row(
        model=model,
        data=data,
        num_parameters=str(parameters),
        steps="11000",
        commit=commit,
        started="2026",
        seed=str(seed),
        command=f"python -m experiments.train{flags} --config.seed={seed}",
        test_error_percent=str(error),
    )


def test_the_last_runs_of_most_seeds_count():
    of = Published("textbook", "mnist", 0.62)
    sizes = networks.image_sizes(of)
    network = networks.Network(deep_convnet.Config(), of, sizes, 123_552, 1e6)
    rows = [
        row(0, 0.9),
        row(1, 0.7),
        row(0, 0.5, flags=" --new"),
        row(1, 0.6, flags=" --new"),
        row(2, 9.0, flags=" --one"),
        row(0, 0.3, commit="later", flags=" --new"),
        row(3, 9.0, parameters=1),
        row(3, 9.0, model="resnet"),
        row(3, 9.0, data="pairs of digits; made of mnist"),
        row(3, 9.0, data=f"{MNIST}; the speaker ada held out"),
        row(3, 9.0, data=f"{MNIST}; 5 training images of each class, choice 0"),
    ]
    found = networks.error_here(network, rows)
    assert found == "0.45 ± 0.212 (2 seeds, 11,000 steps)"
    assert networks.error_here(network, rows[6:]) == ""


def test_the_documents_say_what_the_rows_say():
    """And has every network; its counts are tested with the networks themselves."""
    text = (ROOT / "docs/networks.md").read_text()
    table = text.partition(networks.BEGIN)[2].partition(networks.END)[0]
    lines = [line.split("|")[1:] for line in table.splitlines() if line[:2] == "| "][1:]
    known = networks.published()
    found = [
        networks.Network(
            config,
            of,
            networks.image_sizes(of),
            int(cells[2].replace(",", "")),
            1e6 * float(cells[3].replace(",", "")),
        )
        for (config, of), cells in zip(known, lines, strict=True)
    ]
    rows = [
        row
        for name in ("training.csv", "spoken_digits/training.csv")
        for row in results.read(ROOT / "results" / name)
    ]
    section = networks.section(found, rows)
    assert results.insert(text, networks.BEGIN, networks.END, section) == text
    readme = (ROOT / "README.md").read_text()
    routings = results.read(ROOT / "results/routings/routings.csv")
    section = networks.measured(found, rows, routings)
    begin, end = networks.BEGIN_MEASURED, networks.END_MEASURED
    assert results.insert(readme, begin, end, section) == readme
