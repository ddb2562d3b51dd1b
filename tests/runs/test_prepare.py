import numpy as np
import pytest
from exports import EXPORTS
from trees import make_coco, make_wider

from msl_hf.console.errors import RunError
from msl_hf.data import load_coco, load_image_folder, load_images, load_voc, load_wider
from msl_hf.data.images import read_image
from msl_hf.data.schema import column, undecoded
from msl_hf.runs.prepare import PrepareArguments, prepare


def assert_same(found, expected, split: str):
    """All columns but the image, and the pixels."""
    assert [f"{split}/{name}" for name in column(expected, "image_id")] == column(found, "image_id")
    assert found.features["labels"] == expected.features["labels"]
    for name in set(expected.features) - {"image", "image_id"}:
        assert column(found, name) == column(expected, name), name
    for one, two in zip(undecoded(found), undecoded(expected), strict=True):
        assert np.array_equal(np.asarray(read_image(one)), np.asarray(read_image(two)))


@pytest.mark.parametrize("streaming", [False, True])
def test_voc_survives_the_round_trip(streaming, scenes, tmp_path):
    report = prepare(PrepareArguments(str(scenes), shard_images=5, output_dir=str(tmp_path)))
    assert report["num_images"] == {"train": 24, "val": 10, "test": 11} and report["num_shards"] == 5 + 2 + 3
    found, expected = load_image_folder(tmp_path, streaming=streaming), load_voc(scenes)
    if streaming:
        rows = list(undecoded(found["test"]))
        assert [row["labels"] for row in rows] == column(expected["test"], "labels")
        assert [row["objects"] for row in rows] == column(expected["test"], "objects")
        assert rows[3]["image_id"] == f"test/{column(expected['test'], 'image_id')[3]}"
        return
    for split in ("train", "test"):
        assert_same(found[split], expected[split], split)


def test_coco_and_wider(tmp_path):
    coco, wider = make_coco(tmp_path / "coco"), make_wider(tmp_path / "wider")
    for name, root, load in (("coco", coco, load_coco), ("wider", wider, load_wider)):
        output = tmp_path / f"{name}-parquet"
        prepare(PrepareArguments(str(root), dataset=name, output_dir=str(output)))
        found = load_image_folder(output)
        for split, expected in load(root).items():
            assert_same(found[split], expected, split)


def test_complete_shards_are_left_alone(scenes, tmp_path):
    arguments = PrepareArguments(str(scenes), shard_images=10, splits=["train"], output_dir=str(tmp_path))
    prepare(arguments)
    files = sorted((tmp_path / "data").iterdir())
    assert [file.name for file in files] == [f"train-{n:05d}-of-00003.parquet" for n in range(3)]
    content, times = files[1].read_bytes(), [file.stat().st_mtime_ns for file in files]
    files[1].unlink()
    prepare(arguments)
    assert files[1].read_bytes() == content
    assert [file.stat().st_mtime_ns for file in files[::2]] == times[::2]


def test_wrong_arguments(scenes, tmp_path):
    with pytest.raises(RunError, match="--output_dir FOLDER"):
        prepare(PrepareArguments(str(scenes)))
    with pytest.raises(RunError, match="no split 'tset'; the data have"):
        prepare(PrepareArguments(str(scenes), splits=["tset"], output_dir=str(tmp_path)))


@pytest.mark.parametrize("name", EXPORTS)
def test_every_format_survives_the_round_trip(name, tmp_path, capsys):
    EXPORTS[name](tmp_path / "data")
    report = prepare(PrepareArguments(str(tmp_path / "data"), output_dir=str(tmp_path / "out")))
    assert f"read as {name}" in capsys.readouterr().out
    assert report["num_images"] == {"train": 2, "validation": 2} and report["classes"] == ["cat", "dog"]
    found, expected = load_images(tmp_path / "out"), load_images(tmp_path / "data")
    for split in ("train", "validation"):
        assert_same(found[split], expected[split], split)


def test_unknown_labels_and_embedded_images_survive(tmp_path):
    import base64
    import json

    EXPORTS["labelme"](tmp_path / "labelme")
    file, image = tmp_path / "labelme/train/a.json", tmp_path / "labelme/train/a.png"
    content = json.loads(file.read_text())
    content["imageData"] = base64.b64encode(image.read_bytes()).decode()
    file.write_text(json.dumps(content))
    image.unlink()
    EXPORTS["openimages"](tmp_path / "openimages")
    table = tmp_path / "openimages/train-annotations-human-imagelabels.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]))  # of b, nothing is known about dog
    for name in ("labelme", "openimages"):
        prepare(PrepareArguments(str(tmp_path / name), output_dir=str(tmp_path / f"{name}-out")))
        found, expected = load_images(tmp_path / f"{name}-out"), load_images(tmp_path / name)
        for split in ("train", "validation"):
            assert_same(found[split], expected[split], split)
    assert column(found["train"], "ignored") == [[], [1]]


def test_images_in_two_splits_are_named(tmp_path, capsys):
    EXPORTS["metadata"](tmp_path / "data")
    (tmp_path / "data/validation/d.png").unlink()
    (tmp_path / "data/validation/d.png").symlink_to(tmp_path / "data/train/a.png")
    prepare(PrepareArguments(str(tmp_path / "data"), output_dir=str(tmp_path / "out")))
    assert "Warning: 1 images are in split 'train' and in split 'validation'" in capsys.readouterr().out


def test_shards_of_other_data_are_not_taken_for_these(scenes, tmp_path):
    settings = {"data_dir": str(scenes), "output_dir": str(tmp_path / "shards"), "splits": ["val"]}
    prepare(PrepareArguments(**settings))
    prepare(PrepareArguments(**settings))
    with pytest.raises(RunError, match="holds shards of other data, or cut otherwise"):
        prepare(PrepareArguments(**{**settings, "splits": ["test"]}))
    with pytest.raises(RunError, match="holds shards of other data, or cut otherwise"):
        prepare(PrepareArguments(**settings, shard_images=4))
