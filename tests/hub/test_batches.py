import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from msl_hf import MSLForImageClassification
from msl_hf.data import build_processor
from msl_hf.hub import LabelBatches

BROKEN = 2


@pytest.fixture
def photos(tiny_model, tmp_path) -> Path:
    """A model folder, and five image files, one of which is no image."""
    tiny_model("timm_vit").save_pretrained(tmp_path / "model")
    build_processor(None, 32).save_pretrained(tmp_path / "model")
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 255, (20 + number, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    (tmp_path / f"{BROKEN}.png").write_bytes(b"no image")
    return tmp_path


def of_objects(values) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    for number, value in enumerate(values):
        array[number] = value
    return array


def files(photos: Path) -> list[Path]:
    return [photos / f"{number}.png" for number in range(5)]


KINDS = {
    "bytes": lambda file: file.read_bytes(),
    "path": str,
    "dictionary of bytes": lambda file: {"bytes": file.read_bytes(), "path": None},
    "dictionary of a path": lambda file: {"bytes": None, "path": str(file)},
    "array": lambda file: np.asarray(Image.open(file)) if file.stem != str(BROKEN) else np.zeros((4, 4)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_labels_as_the_pipeline_gives_them(kind, photos):
    batch = {"image": of_objects([KINDS[kind](file) for file in files(photos)]), "number": np.arange(5)}
    found = LabelBatches(photos / "model", threshold=0.5, device="cpu")(batch)
    assert list(found) == ["number", "labels", "scores", "error"] and found["number"].tolist() == [0, 1, 2, 3, 4]
    classify = pipeline("multi-label-image-classification", model=str(photos / "model"), threshold=0.5)
    for number, file in enumerate(files(photos)):
        if number == BROKEN:
            assert found["labels"][number] is None and found["scores"][number] is None
            assert ("float64 (4, 4)" if kind == "array" else "cannot be decoded") in found["error"][number]
            continue
        expected = classify(str(file))
        assert found["labels"][number] == [entry["label"] for entry in expected] and found["error"][number] is None
        assert found["scores"][number] == pytest.approx([entry["score"] for entry in expected], abs=1e-4)
    assert 0 < sum(len(labels or []) for labels in found["labels"]) < 12  # the threshold chose


def test_images_are_looked_at_as_asked(photos):
    model = MSLForImageClassification.from_pretrained(photos / "model").eval()
    images = [Image.open(file) for file in files(photos) if file.stem != str(BROKEN)]
    batch = {"image": of_objects([np.asarray(image) for image in images])}
    found = LabelBatches(photos / "model", threshold=0, device="cpu", views="whole@64+2x2")(batch)
    expected = model.view_logits(images, build_processor(None, 32), "whole@64+2x2").sigmoid()
    for row, scores in zip(expected, found["scores"], strict=True):
        assert scores == pytest.approx(row.sort(descending=True).values.tolist(), abs=1e-5)
    tiny = {"image": of_objects([np.zeros((1, 9, 3), np.uint8)])}
    found = LabelBatches(photos / "model", device="cpu", views="2x2")(tiny)
    assert "the image: the view 2x2 cuts finer than the image of 9 x 1 pixels" in found["error"][0]
    with pytest.raises(ValueError, match="image_size 36 is no multiple"):
        LabelBatches(photos / "model", views="whole@36")


def test_images_of_one_size_come_as_one_array(photos):
    """As Ray gives a column of them; another name of the column, and its images stay in the batch."""
    pixels = np.random.default_rng(7).integers(0, 255, (3, 20, 30, 3), dtype=np.uint8)
    label = LabelBatches(photos / "model", threshold=0.0, top_k=2, image_column="picture", keep_images=True)
    found = label({"picture": pixels})
    assert found["picture"] is pixels and [len(labels) for labels in found["labels"]] == [2, 2, 2]
    alone = label({"picture": pixels[1:2]})
    assert alone["labels"][0] == found["labels"][1] and alone["scores"][0] == pytest.approx(
        found["scores"][1], abs=1e-5
    )


def test_tables_have_their_types_whatever_is_in_them(photos):
    pa = pytest.importorskip("pyarrow")
    paths = [str(file) for file in files(photos)]
    label = LabelBatches(photos / "model", threshold=0.5, device="cpu")
    found = label(pa.table({"image": paths, "number": range(5)}))
    expected = label({"image": of_objects(paths), "number": np.arange(5)})
    assert found.to_pydict() == {name: values.tolist() for name, values in expected.items()}
    nothing = LabelBatches(photos / "model", threshold=1.0)(pa.table({"image": paths[:1], "number": [0]}))
    assert nothing.to_pydict() == {"number": [0], "labels": [[]], "scores": [[]], "error": [None]}
    assert nothing.schema == found.schema


def test_a_batch_without_a_readable_image(photos):
    found = LabelBatches(photos / "model")({"image": of_objects([b"", None])})
    assert found["labels"].tolist() == [None, None]
    assert "cannot be decoded" in found["error"][0] and "got NoneType" in found["error"][1]


def test_mistakes(photos):
    with pytest.raises(ValueError, match="threshold is a score in"):
        LabelBatches(photos / "model", threshold=50)
    with pytest.raises(ValueError, match="top_k must be at least 1"):
        LabelBatches(photos / "model", top_k=0)
    with pytest.raises(ValueError, match="no column 'image' of images, only bytes, path; name it with image_column"):
        LabelBatches(photos / "model")({"bytes": of_objects([b""]), "path": of_objects([""])})
    label = LabelBatches(photos / "model")
    torch.nn.init.constant_(label.network.backbone.timm_model.norm.weight, 3e38)
    with pytest.raises(ValueError, match="not numbers"):
        label({"image": of_objects([str(photos / "0.png")])})


@pytest.mark.slow
def test_as_a_stage_of_ray_data(photos, monkeypatch):
    """Parquet files of images, one of which cannot be read, through two actors into parquet files."""
    ray = pytest.importorskip("ray")
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)  # of the actors
    (photos / "data").mkdir()
    for number, file in enumerate(files(photos)):
        images = pa.array([{"bytes": file.read_bytes(), "path": file.name}] * 2)
        parquet.write_table(pa.table({"image": images, "number": [number] * 2}), photos / "data" / f"{number}.parquet")
    # Each actor takes a core, and reading another one.
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
    try:
        rows = ray.data.read_parquet(str(photos / "data")).repartition(5)  # some for each actor
        settings = {"model": str(photos / "model"), "threshold": 0.5, "device": "cpu"}
        actors = ray.data.ActorPoolStrategy(size=2)
        rows = rows.map_batches(
            LabelBatches, fn_constructor_kwargs=settings, batch_size=2, batch_format="pyarrow", compute=actors
        )
        rows.write_parquet(str(photos / "labels"))
    finally:
        ray.shutdown()
    rows = sorted(parquet.read_table(photos / "labels").to_pylist(), key=lambda row: row["number"])
    paths = of_objects([str(file) for file in files(photos)])
    expected = LabelBatches(photos / "model", threshold=0.5, device="cpu")({"image": paths})
    assert [row["number"] for row in rows] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    for row in rows:
        number = row["number"]
        assert row["labels"] == expected["labels"][number] and "image" not in row
        assert (row["error"] is None) == (number != BROKEN)
        assert row["scores"] == (None if number == BROKEN else pytest.approx(expected["scores"][number], abs=1e-5))
