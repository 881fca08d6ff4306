"""Preparing data sets from original files, and reading prepared ones."""

import dataclasses
import gzip
import hashlib
import http.server
import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import tensorflow_datasets as tfds
from PIL import Image

import capsjax.data
from capsjax.data import prepare
from capsjax.errors import UserError
from tests.launching import run

ROOT = Path(__file__).parents[2]
CIFAR_NAMES = ["airplane", "automobile", "bird", "cat", "deer"]
CIFAR_NAMES += ["dog", "frog", "horse", "ship", "truck"]
LABELS = "train-labels-idx1-ubyte.gz"
NUM_TRAIN, NUM_TEST = 30, 10


def zipped(content):
    """Without the time, which would tell the tests' names of two processes apart."""
    return gzip.compress(content, mtime=0)


def idx(array):
    """The idx format as its authors describe it, gzipped."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return zipped(header + array.tobytes())


def examples(image_set):
    """Examples in an order of their own: preparing shuffles them."""
    pairs = zip(image_set.images, image_set.labels, strict=True)
    return sorted((int(label), image.tobytes()) for image, label in pairs)


def made(shape):
    """Random images and labels in which every class occurs."""
    rng = np.random.default_rng(0)
    return {
        split: capsjax.data.ImageSet(
            rng.integers(0, 256, (n, *shape), np.uint8),
            (rng.permutation(n) % 10).astype(np.int32),
        )
        for split, n in (("train", NUM_TRAIN), ("test", NUM_TEST))
    }


def register(monkeypatch, name, files, base=None):
    """Makes `files` pass for the originals, at their URLs or at those under `base`."""
    builder = prepare.BUILDERS[name]
    infos = {
        (base + info.filename if base else url): dataclasses.replace(
            info,
            size=len(files[info.filename]),
            checksum=hashlib.sha256(files[info.filename]).hexdigest(),
        )
        for url, info in builder.url_infos.items()
    }
    monkeypatch.setattr(builder, "url_infos", infos)


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return str(folder)


def mnist_files(sets):
    return {
        f"{prefix}-{kind}": idx(array)
        for prefix, part in (("train", sets["train"]), ("t10k", sets["test"]))
        for kind, array in (
            ("images-idx3-ubyte.gz", part.images[..., 0]),
            ("labels-idx1-ubyte.gz", part.labels.astype(np.uint8)),
        )
    }


def cifar_files(sets, names=CIFAR_NAMES):
    def records(images, labels):
        return b"".join(
            bytes([label]) + b"".join(image[..., c].tobytes() for c in range(3))
            for image, label in zip(images, labels, strict=True)
        )

    train, test = sets["train"], sets["test"]
    members = {"batches.meta.txt": "\n".join([*names, ""]).encode()}
    for part in range(5):
        chosen = slice(part * 6, (part + 1) * 6)
        members[f"data_batch_{part + 1}.bin"] = records(
            train.images[chosen], train.labels[chosen]
        )
    members["test_batch.bin"] = records(test.images, test.labels)
    return {"cifar-10-binary.tar.gz": tar(members)}


def svhn_files(sets):
    def arrays(images, labels):
        X = np.empty((32, 32, 3, len(images)), np.uint8)
        for index, image in enumerate(images):
            X[:, :, :, index] = image
        y = [[{0: 10}.get(label, label)] for label in labels.tolist()]
        return {"X": X, "y": np.array(y, np.uint8)}

    files = {}
    for split, part in sets.items():
        buffer = io.BytesIO()
        scipy.io.savemat(
            buffer,
            arrays(part.images, part.labels),
            do_compression=split == "train",
        )
        files[f"{split}_32x32.mat"] = buffer.getvalue()
    return files


def made_norb(n):
    """Random photographs, and rows of category and info."""
    rng = np.random.default_rng(0)
    info = [rng.integers(0, most, n) for most in (10, 9, 18, 6)]
    info[2] *= 2  # azimuths are 0, 2, ... 34.
    return {
        "dat": rng.integers(0, 256, (n, 2, 96, 96), np.uint8),
        "cat": rng.permutation(n).astype(np.int32) % 5,
        "info": np.stack(info, axis=1).astype(np.int32),
    }


def norb_matrix(array):
    """NORB's format as its authors describe it, gzipped."""
    magic = {"uint8": 0x1E3D4C55, "int32": 0x1E3D4C54}[array.dtype.name]
    sizes = [*array.shape, 1, 1, 1][: max(3, array.ndim)]
    header = struct.pack(f"<{2 + len(sizes)}i", magic, array.ndim, *sizes)
    return zipped(header + array.astype(array.dtype.newbyteorder("<")).tobytes())


def norb_files(sets):
    prefixes = {
        "train": "smallnorb-5x46789x9x18x6x2x96x96-training",
        "test": "smallnorb-5x01235x9x18x6x2x96x96-testing",
    }
    return {
        f"{prefixes[split]}-{kind}.mat.gz": norb_matrix(array)
        for split, arrays in sets.items()
        for kind, array in arrays.items()
    }


def tar(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def mnist(monkeypatch):
    """A made data set, and files that pass for MNIST's originals."""
    sets = made((28, 28, 1))
    files = mnist_files(sets)
    register(monkeypatch, "mnist", files)
    return sets, files


@pytest.mark.parametrize(
    ("name", "make_files"),
    [
        ("mnist", mnist_files),
        ("fashion_mnist", mnist_files),
        ("kmnist", mnist_files),
        ("cifar10", cifar_files),
        ("svhn_cropped", svhn_files),
    ],
)
def test_pixels_and_labels_survive(name, make_files, tmp_path, monkeypatch):
    sets = made((28, 28, 1) if make_files is mnist_files else (32, 32, 3))
    files = make_files(sets)
    register(monkeypatch, name, files)
    data_dir = str(tmp_path / "data")

    message = prepare.prepare(name, data_dir, write(tmp_path / "files", files))

    assert f"{NUM_TRAIN} train, {NUM_TEST} test" in message
    dataset = capsjax.data.load(name, data_dir=data_dir)
    assert examples(dataset.train) == examples(sets["train"])
    assert examples(dataset.test) == examples(sets["test"])
    assert dataset.image_shape == sets["train"].images.shape[1:]
    original = tfds.builder(name, data_dir=str(tmp_path / "none"))
    assert str(original.version) in dataset.provenance
    assert "JPEG" not in dataset.provenance
    if name == "cifar10":
        assert dataset.class_names == tuple(CIFAR_NAMES)
    else:
        assert dataset.class_names == tuple(original.info.features["label"].names)
    # TFDS itself, without the reader of this package, takes it for its own data set.
    builder = tfds.builder(name, data_dir=data_dir)
    record = builder.as_data_source("test")[0]
    assert (int(record["label"]), record["image"].tobytes()) in examples(sets["test"])
    stored = json.loads((Path(builder.data_dir) / "dataset_info.json").read_text())
    assert stored["name"] == name
    assert stored["version"] == str(original.version)
    assert stored["fileFormat"] == "array_record"
    assert int(stored["downloadSize"]) == sum(map(len, files.values()))


def test_smallnorb_survives(tmp_path, monkeypatch):
    """Read by TFDS itself; `capsjax.data.sources.smallnorb` has tests of its own."""
    sets = {"train": made_norb(7), "test": made_norb(4)}
    files = norb_files(sets)
    register(monkeypatch, "smallnorb", files)
    data_dir = str(tmp_path / "data")

    message = prepare.prepare("smallnorb", data_dir, write(tmp_path / "f", files))

    assert "prepared smallnorb 2.0.0" in message
    assert "7 train, 4 test" in message
    for split, arrays in sets.items():
        wanted = [
            (
                *(camera.tobytes() for camera in cameras),
                *map(int, (category, instance, elevation, azimuth // 2, lighting)),
            )
            for cameras, category, (instance, elevation, azimuth, lighting) in zip(
                arrays["dat"], arrays["cat"], arrays["info"], strict=True
            )
        ]
        features = ["label_category", "instance", "label_elevation"]
        features += ["label_azimuth", "label_lighting"]
        found = [
            (
                record["image"].tobytes(),
                record["image2"].tobytes(),
                *(int(record[feature]) for feature in features),
            )
            for record in tfds.builder("smallnorb", data_dir=data_dir).as_data_source(
                split
            )
        ]
        assert sorted(found) == sorted(wanted)


def test_svhn_comes_without_the_extra_images(tmp_path, monkeypatch):
    sets = made((32, 32, 3))
    files = svhn_files(sets)
    assert sorted(files) == sorted(
        info.filename for info in prepare.BUILDERS["svhn_cropped"].url_infos.values()
    )
    register(monkeypatch, "svhn_cropped", files)
    prepare.prepare("svhn_cropped", str(tmp_path), write(tmp_path / "f", files))
    builder = tfds.builder("svhn_cropped", data_dir=str(tmp_path))
    assert set(builder.info.splits) == {"train", "test"}
    # The identifiers are those that TFDS would give.
    record = builder.as_data_source("train")[0]
    index = int(record["id"].decode().removeprefix("train_"))
    assert record["id"] == f"train_{index:06d}".encode()
    np.testing.assert_array_equal(record["image"], sets["train"].images[index])
    assert record["label"] == sets["train"].labels[index]


def test_prepared_already(mnist, tmp_path):
    data_dir = tmp_path / "data"
    folder = write(tmp_path / "files", mnist[1])
    prepare.prepare("mnist", str(data_dir), folder)
    before = {path: path.stat().st_mtime_ns for path in data_dir.rglob("*")}

    message = prepare.prepare("mnist", str(data_dir), str(tmp_path / "nowhere"))

    assert "prepared already" in message
    assert {path: path.stat().st_mtime_ns for path in data_dir.rglob("*")} == before


def test_default_data_dir(mnist, tmp_path):
    """TFDS reads TFDS_DATA_DIR when it is imported, so another process is needed."""
    data_dir = str(tmp_path / "data")
    prepare.prepare("mnist", data_dir, write(tmp_path / "files", mnist[1]))
    code = "import capsjax.data as d; print(len(d.load('mnist').train))"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"TFDS_DATA_DIR": data_dir},
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert found.stdout.strip() == str(NUM_TRAIN)
    assert found.stderr == ""  # no progress bar but on a terminal.


def test_source_folder_per_data_set(tmp_path, monkeypatch):
    """The files of the MNIST family have the same names."""
    sets = {}
    for name, brightness in (("mnist", 1), ("kmnist", 2)):
        images = np.full((10, 28, 28, 1), brightness, np.uint8)
        part = capsjax.data.ImageSet(images, np.arange(10, dtype=np.int32))
        sets[name] = {"train": part, "test": part}
        files = mnist_files(sets[name])
        register(monkeypatch, name, files)
        write(tmp_path / "files" / name, files)
    for name in sets:
        prepare.prepare(name, str(tmp_path / "data"), str(tmp_path / "files"))
        dataset = capsjax.data.load(name, data_dir=str(tmp_path / "data"))
        assert examples(dataset.train) == examples(sets[name]["train"])


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_interruption_leaves_nothing(error, mnist, tmp_path, monkeypatch):
    sets, files = mnist
    folder = write(tmp_path / "files", files)
    data_dir = tmp_path / "data"
    encode = prepare._png
    calls = 0

    def interrupted(image):
        nonlocal calls
        calls += 1
        if calls == NUM_TRAIN + 3:  # when the training set is written already.
            raise error
        return encode(image)

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "_png", interrupted)
        with pytest.raises(error):
            prepare.prepare("mnist", str(data_dir), folder)

    assert calls == NUM_TRAIN + 3
    assert list((data_dir / "mnist").iterdir()) == []
    with pytest.raises(UserError, match="no mnist"):
        capsjax.data.load("mnist", data_dir=str(data_dir))
    prepare.prepare("mnist", str(data_dir), folder)
    dataset = capsjax.data.load("mnist", data_dir=str(data_dir))
    assert examples(dataset.test) == examples(sets["test"])


def test_stale_leftovers_are_removed(mnist, tmp_path):
    old = tmp_path / "data/mnist/incomplete.AAAAAA_3.0.1"
    fresh = tmp_path / "data/mnist/incomplete.BBBBBB_3.0.1"
    then = time.time() - prepare.STALE_SECONDS - 60
    for folder in (old, fresh):
        folder.mkdir(parents=True)
        (folder / "part").write_text("half")
        os.utime(folder / "part", (then, then))
        os.utime(folder, (then, then))
    (fresh / "being written").touch()

    prepare.prepare("mnist", str(tmp_path / "data"), write(tmp_path / "f", mnist[1]))

    assert not old.exists()
    assert (fresh / "part").exists()


@pytest.fixture
def server(tmp_path):
    """A folder, and the URL at which a server of this process offers its files."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=[0.01])
        thread.start()
        yield folder, f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()
        thread.join()


def test_download(mnist, tmp_path, monkeypatch, server):
    sets, files = mnist
    folder, url = server
    register(monkeypatch, "mnist", files, base=url)
    write(folder, files)
    missing = LABELS
    (folder / missing).unlink()
    data_dir = tmp_path / "data"
    downloads = data_dir / "downloads/mnist"

    with pytest.raises(UserError, match=f"{url}{missing} .*404.*{downloads}"):
        prepare.prepare("mnist", str(data_dir))
    assert sorted(path.name for path in downloads.iterdir()) == sorted(
        set(files) - {missing}
    )

    # A truncated or otherwise wrong download isn't kept.
    (folder / missing).write_bytes(files[missing][:-5])
    with pytest.raises(UserError, match=f"came from {url}{missing} is not the orig"):
        prepare.prepare("mnist", str(data_dir))
    assert not (downloads / missing).exists()

    (folder / missing).write_bytes(files[missing])
    for name in set(files) - {missing}:  # those are not downloaded anew.
        (folder / name).unlink()
    prepare.prepare("mnist", str(data_dir))
    dataset = capsjax.data.load("mnist", data_dir=str(data_dir))
    assert examples(dataset.train) == examples(sets["train"])


def test_download_without_a_network(mnist, tmp_path, monkeypatch):
    register(monkeypatch, "mnist", mnist[1], base="http://127.0.0.1:1/")
    with pytest.raises(
        UserError, match=r"cannot download http://127.0.0.1:1/.*refused"
    ):
        prepare.prepare("mnist", str(tmp_path))


def test_published_checksums_are_the_default(tmp_path):
    """These are the sha256 sums that torchvision and others list, too."""
    (info,) = prepare.BUILDERS["cifar10"].url_infos.values()
    assert info.checksum.startswith("c4a38c50a1bc5f3a")
    folder = write(tmp_path / "f", cifar_files(made((32, 32, 3))))
    with pytest.raises(UserError, match=r"is not the original cifar-10-binary.tar.gz"):
        prepare.prepare("cifar10", str(tmp_path / "data"), folder)


def test_bad_input(mnist, tmp_path):
    data_dir = str(tmp_path / "data")
    with pytest.raises(UserError, match=r"prepare the data set 'svhn'; choose .*mnist"):
        prepare.prepare("svhn", data_dir)
    with pytest.raises(UserError, match=r"no t10k-images-idx3-ubyte.gz in"):
        prepare.prepare("mnist", data_dir, str(tmp_path / "nowhere"))
    folder = write(tmp_path / "f", mnist[1] | {LABELS: b"other"})
    with pytest.raises(UserError, match=r"sha256 is d9298a10.*\(5 bytes instead of"):
        prepare.prepare("mnist", data_dir, folder)
    folder = write(tmp_path / "f", mnist[1])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot prepare mnist in .*Not a directory"):
        prepare.prepare("mnist", str(tmp_path / "file"), folder)
    (tmp_path / "data/mnist/3.0.1").mkdir(parents=True)
    with pytest.raises(UserError, match="exists but is not a complete data set"):
        prepare.prepare("mnist", data_dir, folder)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "missing"])
def test_damaged_records(damage, mnist, tmp_path):
    prepare.prepare("mnist", str(tmp_path / "data"), write(tmp_path / "f", mnist[1]))
    folder = tmp_path / "data/mnist/3.0.1"
    (records,) = folder.glob("mnist-test.array_record*")
    content = bytearray(records.read_bytes())
    if damage == "missing":
        records.unlink()
    elif damage == "flipped":
        content[len(content) // 50] ^= 1
        records.write_bytes(content)
    else:
        records.write_bytes(content[: len(content) // 2 * (damage == "truncated")])
    with pytest.raises(UserError, match=f"test files of mnist in {folder}.*damaged"):
        capsjax.data.load("mnist", data_dir=str(tmp_path / "data"))


def test_damaged_metadata(mnist, tmp_path):
    data_dir = str(tmp_path / "data")
    prepare.prepare("mnist", data_dir, write(tmp_path / "f", mnist[1]))
    info = tmp_path / "data/mnist/3.0.1/dataset_info.json"
    info.write_text(info.read_text()[:100])
    with pytest.raises(UserError, match=f"cannot open mnist in {data_dir}"):
        capsjax.data.load("mnist", data_dir=data_dir)
    with pytest.raises(UserError, match=f"cannot open mnist in {data_dir}"):
        prepare.prepare("mnist", data_dir)
    info.unlink()
    with pytest.raises(UserError, match=r"no mnist 3\.0\.1 in the data directory"):
        capsjax.data.load("mnist", data_dir=data_dir)
    with pytest.raises(UserError, match="exists but is not a complete data set"):
        prepare.prepare("mnist", data_dir)


def test_another_record_format(mnist, tmp_path):
    prepare.prepare("mnist", str(tmp_path / "data"), write(tmp_path / "f", mnist[1]))
    info = tmp_path / "data/mnist/3.0.1/dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match="is not stored as array_record"):
        capsjax.data.load("mnist", data_dir=str(tmp_path / "data"))
    with pytest.raises(UserError, match="in the format tfrecord"):
        prepare.prepare("mnist", str(tmp_path / "data"))


def test_provenance_tells_of_jpeg(mnist, tmp_path, monkeypatch):
    def jpeg(image):
        buffer = io.BytesIO()
        Image.fromarray(image[..., 0]).save(buffer, "JPEG", quality=83)
        buffer.seek(0)
        return buffer

    monkeypatch.setattr(prepare, "_png", jpeg)
    prepare.prepare("mnist", str(tmp_path / "data"), write(tmp_path / "f", mnist[1]))
    dataset = capsjax.data.load("mnist", data_dir=str(tmp_path / "data"))
    assert "stored as JPEG of quality 83" in dataset.provenance


def test_launcher(mnist, tmp_path):
    data_dir = str(tmp_path / "data")
    prepare.prepare("mnist", data_dir, write(tmp_path / "files", mnist[1]))
    done = run("prepare_data", "--dataset=mnist", f"--data_dir={data_dir}")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        f"mnist 3.0.1 is prepared already in {data_dir}/mnist/3.0.1"
    ]

    (tmp_path / "empty").mkdir()
    failed = run(
        "prepare_data",
        "--dataset=kmnist",
        f"--data_dir={data_dir}",
        f"--source_dir={tmp_path / 'empty'}",
    )
    assert failed.returncode == 1
    assert "no t10k-images-idx3-ubyte.gz in" in failed.stderr
    assert len(failed.stderr.splitlines()) == 1

    for arguments, message in (
        ((), "name the data sets by --dataset"),
        (("--dataset=mnist,nope",), "cannot prepare nope"),
        (("--dataset=mnist", "cifar10"), "unexpected argument 'cifar10'"),
    ):
        failed = run("prepare_data", *arguments, f"--data_dir={data_dir}")
        assert failed.returncode == 1
        assert message in failed.stderr
        assert len(failed.stderr.splitlines()) == 1


def test_launcher_help():
    shown = run("prepare_data", "--help")
    for text in ("--dataset", "--data_dir", "--source_dir", "TFDS_DATA_DIR", "kmnist"):
        assert text in shown.stdout + shown.stderr
