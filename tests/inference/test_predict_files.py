"""Image files get the scores that evaluation gives to the same images."""

import csv
import shutil

import numpy as np
import pytest
from PIL import Image

import capsjax
from capsjax import data
from capsjax.data import ImageSet
from capsjax.errors import UserError
from capsjax.inference import pretrained
from capsjax.inference.predict_files import FilePredictor
from capsjax.runs.folder import RunFolder
from capsjax.training.train import train
from capsjax.training.trained import evaluate, restore
from experiments.configs import digits
from tests.launching import assert_one_line, run

N = 21  # More than a batch, and no multiple of it.


def small_config():
    config = digits.get_config("quick")
    config.batch_size, config.max_steps, config.num_devices = 8, 20, 1
    config.data.validation_examples = 100
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory, digits_data) -> RunFolder:
    """The folder of a run with a decoder."""
    folder = RunFolder(tmp_path_factory.mktemp("files") / "run")
    train(small_config(), digits_data, folder)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory, digits_data):
    """A folder with the first test digits, some of them in folders, in their order."""
    root = tmp_path_factory.mktemp("digits")
    for i, image in enumerate(digits_data.test.images[:N]):
        place = root / ("b/deeper" if i > 15 else "a" if i < 10 else "aa")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(place / f"{i:02}.png")
    return root


@pytest.fixture(scope="module")
def expected(trained, digits_data):
    few = ImageSet(digits_data.test.images[:N], digits_data.test.labels[:N])
    return evaluate(restore(trained, digits_data), few)


def distances_of(found):
    assert found.distances is not None
    return found.distances


def test_the_scores_are_those_of_evaluation(trained, files, expected):
    found = capsjax.predict_files(trained.path, [files])
    assert [path.name for path in found.files] == [f"{i:02}.png" for i in range(N)]
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
    best = [int(classes[0][0]) for classes in found.top(3)]
    assert best == expected.predictions.tolist()
    for classes in found.top(3):
        scores = [score for _, score in classes]
        assert len(scores) == 3
        assert scores == sorted(scores, reverse=True)
    assert found.changes == found.unread == []


def test_distances_are_to_reconstructions_of_the_predicted_class(
    trained, files, digits_data
):
    found = capsjax.predict_files(trained.path, [files])
    images = digits_data.test.images[:N]
    drawn = capsjax.predict(restore(trained, digits_data), images, reconstruct=True)
    difference = images / 255.0 - drawn["reconstructions"]
    wanted = np.sqrt(np.square(difference).sum(axis=(1, 2, 3)))
    np.testing.assert_allclose(distances_of(found), wanted, rtol=1e-5)


def test_usual_are_all_but_a_twentieth_of_the_validation_images(
    trained, digits_data, tmp_path
):
    for i, image in enumerate(digits_data.validation.images):
        Image.fromarray(image[..., 0]).save(tmp_path / f"{i}.png")
    predictor = FilePredictor(trained)
    usual = predictor.usual(digits_data)
    assert usual.images == "100 validation images"
    distances = distances_of(predictor.predict([tmp_path]))
    assert np.sum(distances > usual.distance) == 5
    # Black on white, where all training images are white on black.
    negative = 255 - digits_data.validation.images[0, ..., 0]
    Image.fromarray(negative).save(tmp_path / "negative.png")
    (distance,) = distances_of(predictor.predict([tmp_path / "negative.png"]))
    assert distance > usual.distance


def test_odd_files_are_named_and_the_others_predicted(trained, files, tmp_path):
    shutil.copytree(files / "a", tmp_path / "a")
    (tmp_path / "a/.hidden").write_text("")
    (tmp_path / "a/notes.txt").write_text("no image")
    whole = (files / "a/00.png").read_bytes()
    (tmp_path / "a/broken.png").write_bytes(whole[:50])
    Image.new("F", (8, 8)).save(tmp_path / "a/float.tif")
    found = capsjax.predict_files(trained, [tmp_path, files / "b/deeper/16.png"])
    assert len(found.files) == 11
    assert found.files[-1].name == "16.png"
    assert found.left_out == "not read: 1 hidden"
    reasons = {path.name: why for path, why in found.unread}
    assert reasons["notes.txt"] == "no image"
    assert reasons["broken.png"].startswith("cannot read the image")
    assert "have no known range" in reasons["float.tif"]


def test_nothing_to_predict_is_one_error(trained, tmp_path):
    with pytest.raises(UserError, match=r"there is no file or folder .*absent"):
        capsjax.predict_files(trained, [tmp_path / "absent"])
    with pytest.raises(UserError, match="no file in"):
        capsjax.predict_files(trained, [tmp_path])
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(UserError, match=r"no image among the 1 files .*txt: no image"):
        capsjax.predict_files(trained, [tmp_path])


def test_other_sizes_and_colours_are_said(trained, files, tmp_path):
    pixels = np.asarray(Image.open(files / "a/00.png"))
    large = Image.fromarray(np.kron(pixels, np.ones((4, 6), np.uint8)))
    large.convert("RGB").save(tmp_path / "0.png")
    large.save(tmp_path / "1.png")
    found = capsjax.predict_files(trained, [tmp_path])
    assert found.changes == [
        "2 images resized from 48x32 to 8x8, the size of the training images, which "
        "were not resized",
        "1 image in colour made gray: the network sees no colours",
    ]
    np.testing.assert_allclose(found.scores[0], found.scores[1], atol=1e-6)
    for side in (9, 10, 11):
        large.resize((side, side)).save(tmp_path / f"{side}.png")
    assert (
        "5 images of 4 sizes resized"
        in (capsjax.predict_files(trained, [tmp_path]).changes[0])
    )


def test_files_are_read_as_in_training_without_its_data(tmp_path):
    """Resized, scaled by the value of white and given colours; and cropped."""
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for place, name in enumerate(("ant", "bee")):
            (tmp_path / "set" / part / name).mkdir(parents=True)
            for i in range(6):
                shape = (12, 15, 3) if i % 2 else (20, 11)
                pixels = rng.integers(0, 100 + 50 * place, shape, np.uint8)
                Image.fromarray(pixels).save(
                    tmp_path / "set" / part / name / f"{i}.png"
                )
    config = small_config()
    config.data = data.Source(
        name="folder",
        path=str(tmp_path / "set"),
        image_size=10,
        max_value=150,
        validation_examples=2,
    )
    config.preprocess.crop = 9
    config.max_steps = 2
    folder = RunFolder(tmp_path / "run")
    own = data.load("folder", path=config.data.path, image_size=10, max_value=150)
    train(config, own, folder)
    wanted = evaluate(restore(folder, own), own.test).scores
    (tmp_path / "set/test").rename(tmp_path / "test")
    shutil.rmtree(tmp_path / "set")
    found = capsjax.predict_files(folder, [tmp_path / "test"])
    np.testing.assert_allclose(found.scores, wanted, atol=1e-6)
    assert found.class_names == ("ant", "bee")
    assert found.changes == [
        "6 images resized from 11x20 to 10x10, as in training",
        "6 images resized from 15x12 to 10x10, as in training",
        "6 images in gray given three equal channels, as in training",
    ]
    with_default = FilePredictor(folder, max_value=0).predict([tmp_path / "test"])
    assert np.abs(with_default.scores - wanted).max() > 1e-4


def test_images_that_files_cannot_hold_are_refused(trained, tmp_path):
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(trained.path, folder.path)
    text = folder.data.read_text()
    folder.data.write_text(
        text.replace(
            '"image_shape": [\n    8,\n    8,\n    1',
            ('"image_shape": [\n    8,\n    8,\n    2'),
        )
    )
    with pytest.raises(UserError, match="2 channels, which image files do not have"):
        FilePredictor(folder)
    folder.data.unlink()
    with pytest.raises(UserError, match="did not record its data"):
        FilePredictor(folder)


def test_the_launcher_prints_and_writes(trained, files, expected, tmp_path):
    rows = tmp_path / "new/rows.csv"
    (tmp_path / "notes.txt").write_text("no image")
    done = run(
        "predict",
        f"--workdir={trained.path}",
        "--top=2",
        f"--output={rows}",
        str(files),
        str(tmp_path / "notes.txt"),
    )
    assert done.returncode == 0, done.stderr
    with rows.open(newline="") as file:
        found = [*csv.DictReader(file)]
    assert [*found[0]] == [
        *("file", "class", "score", "class_2", "score_2"),
        *("reconstruction_error", "unusual"),
    ]
    assert [int(row["class"]) for row in found] == expected.predictions.tolist()
    scores = [float(row["score"]) for row in found]
    np.testing.assert_allclose(scores, expected.scores.max(axis=1), atol=1e-6)
    lines = done.stdout.splitlines()
    assert lines[0] == "not read: 1 of the files, which are no images:"
    assert lines[1] == f"  {tmp_path}/notes.txt: no image"
    assert lines[2].startswith("reconstruction error: at most ")
    assert "for 95% of 100 validation images of the run" in lines[2]
    for line, row in zip(lines[3:-1], found, strict=True):
        assert line.startswith(
            f"{row['file']}: {row['class']} {float(row['score']):.4f}"
        )
        assert line.endswith(", unusual") == (row["unusual"] == "1")
    assert lines[-1] == f"{N} rows in {rows}"

    nothing = run("predict", f"--workdir={trained.path}", str(tmp_path / "notes.txt"))
    assert_one_line(nothing, "no image among the 1 files", "notes.txt")
    assert_one_line(run("predict", f"--workdir={trained.path}"), "give IMAGES...")


def test_the_launcher_takes_a_network_in_one_file(
    trained, files, digits_data, tmp_path
):
    path = tmp_path / "net.safetensors"
    pretrained.pack(trained, digits_data, path, {})
    done = run("predict", f"--pretrained={path}", str(files / "a"))
    assert done.returncode == 0, done.stderr
    # The file has the best parameters, and no decoder.
    best = restore(trained, digits_data, "best")
    scores = capsjax.predict(best, digits_data.test.images[:10])["scores"]
    found = [line.rpartition(": ")[2].split() for line in done.stdout.splitlines()]
    assert [int(name) for name, _ in found] == scores.argmax(axis=1).tolist()
    said = [float(score) for _, score in found]
    np.testing.assert_allclose(said, scores.max(axis=1), atol=1e-4)
