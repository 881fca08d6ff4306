"""Files that are read or counted, and ranges of pixel values that are refused."""

import errno
import io
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from capsjax import data
from capsjax.errors import UserError


def encoded(form="PNG", seed=0, **options):
    """A random image, encoded."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.fixture
def root(tmp_path):
    """Two classes of five images each."""
    for name in ("cat", "dog"):
        for i in range(5):
            write(tmp_path / "root" / name / f"{i}.png", encoded(seed=i))
    return tmp_path / "root"


def load(root, **options):
    return data.load("folder", path=str(root), **options)


def number(root):
    found = load(root)
    return len(found.train) + len(found.test)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.jfif", "JPEG"),
        ("a.JPE", "JPEG"),
        ("a.jp2", "JPEG2000"),
        ("a.pcx", "PCX"),
        ("a.tga", "TGA"),
        ("without_suffix", "PNG"),
        ("a.jpg", "PNG"),
        ("photos/2024/a.png", "PNG"),
    ],
)
def test_what_pillow_reads_is_read(name, form, root):
    write(root / "cat" / name, encoded(form, seed=9))
    assert number(root) == 11
    assert "not read" not in load(root).provenance


def test_what_is_not_read_is_counted(root, tmp_path):
    write(root / "cat/notes.txt", b"text")
    write(root / "cat/more/notes.txt", b"text")
    write(root / "cat/Thumbs.db", b"text")
    write(root / "cat/README", b"text")
    write(root / "cat/.DS_Store", b"text")
    write(root / "cat/table.h5", bytes.fromhex("894844460d0a1a0a") + bytes(99))
    write(root / "labels.csv", b"text")
    (root / ".git").mkdir()
    os.mkfifo(root / "cat/pipe.png")
    (root / "dog/gone.png").symlink_to(tmp_path / "nowhere.png")
    (root / "dog/loop").symlink_to(root)
    frames = [Image.new("L", (6, 6), shade) for shade in (0, 100, 200)]
    frames[0].save(root / "dog/a.gif", save_all=True, append_images=frames[1:])

    found = load(root)

    assert len(found.train) + len(found.test) == 11
    for counted in (
        "2 .txt files",
        "1 .db files",
        "1 .h5 files",
        "1 unnamed files",
        "2 hidden",
        "1 special files",
        "1 outside the class folders",
        "1 broken links",
        "1 links to a folder above",
        "2 further frames",
    ):
        assert counted in found.provenance


def test_files_beside_train_and_test_are_counted(root):
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            write(root / "split" / part / name / "a.png", encoded(seed=3))
    write(root / "split/README.md", b"text")
    write(root / "split/train/labels.csv", b"text")
    found = load(root / "split")
    assert "not read: 2 outside the class folders" in found.provenance


def test_a_linked_folder_is_read(root, tmp_path):
    write(tmp_path / "elsewhere/a.png", encoded(seed=9))
    (root / "cat/linked").symlink_to(tmp_path / "elsewhere")
    assert number(root) == 11


def test_a_class_of_other_files_only(root):
    write(root / "fox/notes.txt", b"text")
    with pytest.raises(UserError, match=r"no image in .*fox; not read: 1 \.txt files"):
        load(root)


def deep(root, highest, dtype=np.uint16, suffix="png"):
    """Turns the images into 16-bit ones with values 0..highest."""
    for seed, path in enumerate(sorted(root.rglob("*.png"))):
        values = np.linspace(0, highest, 36).reshape(6, 6).astype(dtype) + 0
        values[0, 0] = dtype(highest * seed / 20)
        path.unlink()
        Image.fromarray(values).save(path.with_suffix(f".{suffix}"))


def test_twelve_bits_in_sixteen(root):
    deep(root, 4080)
    with pytest.raises(
        UserError,
        match=r"in 0\.\.15 of .*4080 of 65535\); .*such as 4095, or to 65",
    ):
        load(root)
    found = load(root, max_value=4095)
    assert found.train.images.max() == round(4080 * 255 / 4095)
    wanted = np.rint(np.linspace(0, 4080, 36).astype(np.uint16)[1:] * (255 / 4095))
    np.testing.assert_array_equal(found.train.images[0].ravel()[1:], wanted)
    unchanged = load(root, max_value=65_535)
    assert unchanged.train.images.max() == 16
    with pytest.raises(UserError, match=r"0\.png: the image: .*4080, outside 0\.\.255"):
        load(root, max_value=255)


def test_full_sixteen_bits_need_no_flag(root):
    deep(root, 65_535)
    assert load(root).train.images.max() == 255


@pytest.mark.parametrize(("highest", "white"), [(1, 1), (12, 15), (40, 255)])
def test_dark_eight_bits(highest, white, root):
    deep(root, highest, np.uint8)
    with pytest.raises(UserError, match=f"largest stored value is {highest} of 255"):
        load(root)
    assert load(root, max_value=white).train.images.max() == round(
        255 * highest / white
    )
    assert load(root, max_value=255).train.images.max() == highest


def test_floats_in_tiff(root):
    deep(root, 1, np.float32, "tif")
    with pytest.raises(UserError, match=r"mode F.*config\.data\.max_value"):
        load(root)
    assert load(root, max_value=1).train.images.max() == 255


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (np.eye(20).reshape(20, 4, 5), {}, "dtype float64; .*max_value"),
        (np.eye(20).reshape(20, 4, 5), {"max_value": 1}, None),
        (16 * np.eye(20, dtype=np.uint8).reshape(20, 4, 5), {}, "within 0..16 of"),
        (16 * np.eye(20, dtype=np.int64).reshape(20, 4, 5), {"max_value": 16}, None),
        (-np.eye(20).reshape(20, 4, 5), {"max_value": 1}, r"span -1\.\.0, outside"),
        (np.full((20, 4, 5), np.nan), {"max_value": 1}, "outside"),
    ],
)
def test_npz_ranges(images, options, message, tmp_path):
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(20) % 2)

    def found():
        return data.load("npz", path=str(tmp_path / "a.npz"), **options)

    if message:
        with pytest.raises(UserError, match=message):
            found()
    else:
        assert set(np.unique(found().train.images)) == {0, 255}


def test_content_is_a_hash_of_names_and_bytes(root):
    before = load(root).content
    assert load(root).content == before
    (root / "cat/0.png").rename(root / "cat/00.png")
    renamed = load(root).content
    (root / "cat/00.png").write_bytes(encoded(seed=11))
    assert len({before, renamed, load(root).content}) == 3


@pytest.mark.parametrize("which", [".", "cat", "cat/deep"])
def test_a_folder_that_cannot_be_read_is_named_in_one_line(root, which, monkeypatch):
    (root / "cat/deep").mkdir()
    closed, iterdir = root / which, pathlib.Path.iterdir

    def closed_iterdir(path):
        if path == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(pathlib.Path, "iterdir", closed_iterdir)
    with pytest.raises(UserError, match=r"cannot read .*make it readable") as caught:
        load(root)
    assert f"cannot read {closed} (Permission denied)" in str(caught.value)


def test_a_path_that_cannot_be_followed_is_one_line(root):
    with pytest.raises(UserError, match="cannot follow ~nobody-here/x"):
        load("~nobody-here/x")
    (root / "loop").symlink_to(root / "loop")
    for name in ("folder", "npz"):
        with pytest.raises(UserError, match=r"(cannot follow|no folder|no NPZ file)"):
            data.load(name, path=str(root / "loop"))


def undecodable(text):
    """A name that is no UTF-8, as Python reads it."""
    return os.fsdecode(b"\xff" + text.encode())


def test_a_folder_whose_name_is_not_text_is_refused(root):
    os.rename(root / "cat", root / undecodable("cat"))
    with pytest.raises(UserError, match="not text in UTF-8; rename it") as caught:
        load(root)
    assert str(caught.value).isascii()
    moved = root.with_name(undecodable("root"))
    root.rename(moved)
    (moved / undecodable("cat")).rename(moved / "cat")
    with pytest.raises(UserError, match="not text in UTF-8; rename it"):
        load(moved)


def test_files_whose_names_are_not_text_are_read(root):
    (root / "cat/0.png").rename(root / "cat" / undecodable(".png"))
    write(root / "cat" / f"a.{undecodable('x')}", b"no image")
    found = load(root)
    assert len(found.train) + len(found.test) == 10
    found.provenance.encode()
    assert "not read: 1 .?x files" in found.provenance
