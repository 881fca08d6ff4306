"""Own images in all the forms in which users have them."""

import json

import numpy as np
import pytest
from PIL import Image

from capsjax import data
from capsjax.errors import UserError


def draw(path, number=0):
    """An image whose first pixel is its number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.linspace(0, 255, 36).reshape(6, 6).astype(np.uint8)
    pixels[0, 0] = number
    Image.fromarray(pixels).save(path, lossless=True)


def fill(folder, names=("ant", "bee"), count=2, first=0, suffix=".png"):
    """Class folders with some numbered images each."""
    for place, name in enumerate(names):
        for i in range(count):
            number = first + place * count + i
            draw(folder / name / f"{number}{suffix}", number)


def load(path, **options):
    return data.load("folder", path=str(path), **options)


def numbers(part):
    return sorted(part.images[:, 0, 0, 0].tolist())


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train", "valid", "test"),
        ("Train", "Val", "Test"),
        ("training", "validation", "testing"),
        ("TRAINING", "VALIDATION", "TEST"),
    ],
)
def test_a_folder_of_each_part(tmp_path, train, validation, test):
    fill(tmp_path / train, count=5)
    fill(tmp_path / validation, count=2, first=20)
    fill(tmp_path / test, count=3, first=40)
    # validation_examples does not count: nothing is taken from the training images.
    found = load(tmp_path, validation_examples=4)
    assert numbers(found.train) == [*range(10)]
    assert numbers(found.validation) == [*range(20, 24)]
    assert numbers(found.test) == [*range(40, 46)]
    assert found.validation.labels.tolist() == [0, 0, 1, 1]
    assert "10 training, 4 validation and 6 test images" in found.provenance
    assert found.warnings == ()


def test_the_split_of_runs_that_used_no_validation_part(tmp_path):
    """It is that of the same folder without that part, its hash included."""
    fill(tmp_path / "train", count=20)
    fill(tmp_path / "test", count=3, first=40)
    before = load(tmp_path, validation_examples=4)
    fill(tmp_path / "val", count=2, first=60)
    after = load(tmp_path, validation_examples=4, parts="train_and_test")
    assert after.content == before.content
    for name, part in before.parts().items():
        np.testing.assert_array_equal(part.images, after.parts()[name].images)
    assert "not used: val" in after.provenance
    assert load(tmp_path).content != before.content


def test_other_names_are_classes_in_runs_that_read_them_so(tmp_path):
    fill(tmp_path / "Train", count=5)
    fill(tmp_path / "Test", count=5, first=40)
    found = load(tmp_path, parts="train_and_test")
    assert found.class_names == ("Test", "Train")


def test_without_a_test_part_some_training_images_are_it(tmp_path):
    fill(tmp_path / "train", count=30)
    fill(tmp_path / "val", count=2, first=80)
    found = load(tmp_path, validation_examples=10)
    assert numbers(found.validation) == [80, 81, 82, 83]
    assert sorted(numbers(found.train) + numbers(found.test)) == [*range(60)]
    assert 4 <= len(found.test) <= 24
    assert "a fifth of the training images held out here as the test set" in (
        found.provenance
    )
    # The same images are held out as without the validation part.
    (tmp_path / "val").rename(tmp_path / "kept")
    alone = load(tmp_path / "train")
    assert numbers(alone.test) == numbers(found.test)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["train", "val", "valid"], "both val and valid, .* one part, validation"),
        (["train", "Train", "test"], "both Train and train, .* one part, train"),
        (["Training"], "folder Training of classes but not a test or validation"),
        (["Testing", "other"], "folder Testing of classes but not train"),
    ],
)
def test_parts_that_are_ambiguous_or_alone(tmp_path, folders, message):
    for name in folders:
        fill(tmp_path / name)
    with pytest.raises(UserError, match=message):
        load(tmp_path)


def test_a_validation_part_without_labels_is_refused(tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / "test")
    draw(tmp_path / "val/0.png")
    with pytest.raises(UserError, match=r"val has neither class folders nor a table"):
        load(tmp_path)


def tiny_imagenet(root):
    """A folder of Tiny ImageNet's form: two classes, test images without labels."""
    for place, name in enumerate(("n01443537", "n01629819")):
        fill(root / "train" / name, ("images",), 20, 20 * place, ".JPEG")
        boxes = root / "train" / name / f"{name}_boxes.txt"
        boxes.write_text("0.JPEG\t0\t0\t5\t5\n")
    lines = []
    for i, name in enumerate(("n01629819", "n01443537", "n01629819")):
        draw(root / f"val/images/val_{i}.JPEG", 90 + i)
        lines.append(f"val_{i}.JPEG\t{name}\t0\t32\t44\t62\n")
    (root / "val/val_annotations.txt").write_text("".join(lines))
    fill(root / "test", ("images",), suffix=".JPEG")
    (root / "wnids.txt").write_text("n01443537\nn01629819\n")


def test_tiny_imagenet(tmp_path):
    tiny_imagenet(tmp_path)
    found = load(tmp_path)
    assert found.class_names == ("n01443537", "n01629819")
    assert found.validation.labels.tolist() == [1, 0, 1]
    assert len(found.train) + len(found.test) == 40
    assert "not used: test; not read: 2 .txt files, 1 outside" in found.provenance
    (warning,) = found.warnings
    assert warning.startswith("the folder test has no labels and is not used; ")
    # The labels of the validation images are part of the content.
    table = tmp_path / "val/val_annotations.txt"
    table.write_text(
        table.read_text().replace("_0.JPEG\tn01629819", "_0.JPEG\tn01443537")
    )
    changed = load(tmp_path)
    assert changed.validation.labels.tolist() == [0, 0, 1]
    assert changed.content != found.content


def table_of(folder, text, name="labels.csv"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.csv", "file_name,label\npics/0.png,bee\npics/1.png,ant\n"),
        ("labels.csv", "\ufeffImage,other,Class\r\n0.png,x,bee\r\n1.png,y,ant\r\n"),
        ("labels.csv", "id;label\n0;bee\n1;ant\n"),
        ("labels.csv", "path,label\npics\\0.png,bee\npics\\1.png,ant\n"),
        ("labels.tsv", "filename\tcategory\n0.png\tbee\n1.png\tant\n"),
        (
            "labels.jsonl",
            '{"file_name": "pics/0.png", "label": "bee"}\n'
            '{"file_name": "pics/1.png", "label": "ant"}\n',
        ),
    ],
)
def test_a_table_of_file_names_and_labels(tmp_path, name, text):
    for i in range(3):
        draw(tmp_path / f"pics/{i}.png", i)
    lines = text.splitlines(keepends=True)
    rows = lines[-2:] if name.endswith("jsonl") else lines[1:]
    head = "".join(lines[: len(lines) - len(rows)])
    for i in range(3, 13):  # Enough for a test set.
        draw(tmp_path / f"pics/{i}.png", i)
        rows.append(rows[i % 2].replace(str(i % 2), str(i), 1))
    found = load(table_of(tmp_path, head + "".join(rows), name))
    assert found.class_names == ("ant", "bee")
    seen = {
        int(image[0, 0, 0]): found.class_names[label]
        for part in (found.train, found.test)
        for image, label in zip(part.images, part.labels, strict=True)
    }
    assert seen == {i: ("bee", "ant")[i % 2] for i in [0, 1, *range(3, 13)]}
    assert found.provenance.startswith(f"image table {name}, sha256")
    assert found.title == f"the table {name}"
    assert f"not read: 1 that {name} does not name" in found.provenance


def test_labels_that_are_numbers_are_sorted_as_numbers(tmp_path):
    rows = []
    for i in range(12):
        draw(tmp_path / f"{i}.png", i)
        rows.append(f'{{"file_name": "{i}.png", "label": {(2, 10)[i % 2]}}}')
    table_of(tmp_path, "\n".join(rows), "metadata.jsonl")
    assert load(tmp_path).class_names == ("2", "10")


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_metadata_in_a_folder_for_each_part(tmp_path, name):
    """As Hugging Face's image folders have them."""
    first = {"train": 0, "validation": 20, "test": 40}
    for part, start in first.items():
        rows = []
        for i in range(start, start + 4):
            draw(tmp_path / part / f"{i}.png", i)
            rows.append({"file_name": f"{i}.png", "label": ("bee", "ant")[i % 2]})
        lines = (
            ["file_name,label", *(f"{r['file_name']},{r['label']}" for r in rows)]
            if name.endswith("csv")
            else map(json.dumps, rows)
        )
        table_of(tmp_path / part, "\n".join(lines), name)
    found = load(tmp_path, validation_examples=3)
    for part, start in first.items():
        images = found.parts()[part]
        assert numbers(images) == [*range(start, start + 4)]
        assert (images.images[:, 0, 0, 0] % 2 == 1 - images.labels).all()
    assert found.class_names == ("ant", "bee")


@pytest.mark.parametrize(
    ("head", "row"),
    [
        ("file_name,label,split", "pics/{0}.png,{1},{2}"),
        ("file_name,label", "{2}/{0}.png,{1}"),
    ],
    ids=["a column", "folders"],
)
def test_a_table_that_is_divided(tmp_path, head, row):
    lines = [head]
    for i in range(12):
        part = ("Train", "val", "test")[i // 4]
        draw(tmp_path / ("pics" if "split" in head else part) / f"{i}.png", i)
        lines.append(row.format(i, i % 2, part))
    table_of(tmp_path, "\n".join(lines), "metadata.csv")
    found = load(tmp_path)
    parts = (found.train, found.validation, found.test)
    assert [numbers(part) for part in parts] == [
        [*range(4)],
        [*range(4, 8)],
        [*range(8, 12)],
    ]


def test_metadata_without_labels_leave_the_class_folders(tmp_path):
    fill(tmp_path, count=5)
    table_of(tmp_path, "file_name,caption\nant/0.png,an ant\n", "metadata.csv")
    assert load(tmp_path).class_names == ("ant", "bee")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "picture,kind\n0.png,a\n",
            r"no column of file names: its columns are picture, k",
        ),
        (
            "file,kind\n0.png,a\n",
            r"no column of labels: its columns are file, kind; .*label",
        ),
        ("file,label\n", "names no files"),
        ("", r"columns are \(none\)"),
        ("file,label\n0.png,\n", "line 2: no label; add it"),
        ("file,label\n,a\n", "line 2: no file name"),
        ("file,label\n7.png,a\n", "line 2: there is no file 7.png in"),
        ("file,label\n0.png,a\n0.png,b\n", "lines 2 and 3 both name 0.png"),
        ("file,label\nsame.png,a\n", r"same.png may be .*a/same.png or .*b/same.png"),
        (
            "file,label,split\n0.png,a,fold1\n",
            "into fold1; call each part one of train",
        ),
        (
            "file,label,split\n0.png,a,train\n1.png,b,test\n",
            "test images have the classes b",
        ),
    ],
)
def test_bad_tables(tmp_path, text, message):
    for name in ("0", "1", "a/same", "b/same"):
        draw(tmp_path / f"{name}.png")
    with pytest.raises(UserError, match=message):
        load(table_of(tmp_path, text))


def test_bad_jsonl_and_text(tmp_path):
    table = table_of(tmp_path, "[1]\n", "labels.jsonl")
    with pytest.raises(UserError, match="line 1: wanted an object"):
        load(table)
    table.write_text("{")
    with pytest.raises(UserError, match="line 1: not JSON"):
        load(table)
    table.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="is not text in UTF-8"):
        load(table)


@pytest.mark.parametrize("inside", ["images", ""])
def test_a_table_beside_the_images_is_pointed_at(tmp_path, inside):
    draw(tmp_path / inside / "0.png")
    table = table_of(tmp_path, "file,label\n0.png,a\n")
    with pytest.raises(UserError, match=rf"set config.data.path to (it|{table})"):
        load(tmp_path)


def test_a_test_class_without_images_is_a_warning(tmp_path):
    fill(tmp_path / "train", ("ant", "bee", "cow"))
    fill(tmp_path / "test", ("ant",))
    (tmp_path / "test/bee").mkdir()
    found = load(tmp_path)
    assert found.class_names == ("ant", "bee", "cow")
    assert found.test.labels.tolist() == [0, 0]
    (warning,) = found.warnings
    assert warning == (
        "no test image of bee, cow: the test accuracy says nothing about such images"
    )


def test_one_class_is_a_warning(tmp_path):
    fill(tmp_path, ("ant",), count=10)
    (warning,) = load(tmp_path).warnings
    assert "one class, ant: every network is right" in warning


def test_an_empty_training_class_is_an_error(tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / "test")
    (tmp_path / "train/cow").mkdir()
    with pytest.raises(UserError, match=r"no image in the class folder .*train/cow"):
        load(tmp_path)
