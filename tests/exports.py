"""Small examples of how others write labels down, all of the same four photographs and the same labels."""

import json
from pathlib import Path

from PIL import Image

# Two training and two validation images: their labels, and a box [x, y, w, h] of each label.
IMAGES = {
    "train": {"a.png": {"cat": [2, 4, 10, 8], "dog": [20, 10, 16, 12]}, "b.png": {}},
    "validation": {"c.png": {"dog": [0, 0, 40, 30]}, "d.png": {"cat": [4, 6, 20, 12]}},
}
NAMES = ["cat", "dog"]
WIDTH, HEIGHT = 40, 30


def save(folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (ord(name[0]), 0, 0)).save(folder / name)


def make_metadata(root: Path) -> None:
    for split, images in IMAGES.items():
        for name in images:
            save(root / split, name)
        lines = (json.dumps({"file_name": name, "labels": list(boxes)}) for name, boxes in images.items())
        (root / split / "metadata.jsonl").write_text("\n".join(lines))


def make_columns(root: Path) -> None:
    for split, images in (("train", IMAGES["train"]), ("valid", IMAGES["validation"])):
        rows = []
        for name, boxes in images.items():
            save(root / split, name)
            rows.append(f"{name}, {int('cat' in boxes)}, {int('dog' in boxes)}")
        (root / split / "_classes.csv").write_text("\n".join(["filename, cat, dog", *rows]) + "\n")


def make_voc(root: Path) -> None:
    for split, images in (("train", IMAGES["train"]), ("valid", IMAGES["validation"])):
        for name, boxes in images.items():
            save(root / split, name)
            objects = "".join(
                f"<object><name>{label}</name><difficult>0</difficult><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
                f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
                for label, (x, y, w, h) in boxes.items()
            )
            text = f"<annotation><filename>{name}</filename>{objects}</annotation>"
            (root / split / name).with_suffix(".xml").write_text(text)


def make_coco(root: Path) -> None:
    for split, images in (("train", IMAGES["train"]), ("valid", IMAGES["validation"])):
        content = {"images": [], "annotations": [], "categories": [{"id": 0, "name": "pets", "supercategory": "none"}]}
        content["categories"] += [{"id": n, "name": name, "supercategory": "pets"} for n, name in enumerate(NAMES, 1)]
        for number, (name, boxes) in enumerate(images.items()):
            save(root / split, name)
            content["images"].append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
            content["annotations"] += [
                {"id": 10 * number + at, "image_id": number, "category_id": 1 + NAMES.index(label), "bbox": box}
                for at, (label, box) in enumerate(boxes.items())
            ]
        (root / split / "_annotations.coco.json").write_text(json.dumps(content))


def make_yolo(root: Path) -> None:
    for split, images in (("train", IMAGES["train"]), ("val", IMAGES["validation"])):
        (root / "labels" / split).mkdir(parents=True)
        for name, boxes in images.items():
            save(root / "images" / split, name)
            lines = (
                f"{NAMES.index(label)} {(x + w / 2) / WIDTH} {(y + h / 2) / HEIGHT} {w / WIDTH} {h / HEIGHT}\n"
                for label, (x, y, w, h) in boxes.items()
            )
            (root / "labels" / split / name).with_suffix(".txt").write_text("".join(lines))
    (root / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n")


def make_label_studio(root: Path) -> None:
    for split, images in IMAGES.items():
        tasks = []
        for name, boxes in images.items():
            save(root / split, name)
            results = [
                {"type": "rectanglelabels", "original_width": WIDTH, "original_height": HEIGHT,
                 "value": {"x": 100 * x / WIDTH, "y": 100 * y / HEIGHT, "width": 100 * w / WIDTH,
                           "height": 100 * h / HEIGHT, "rotation": 0, "rectanglelabels": [label]}}
                for label, (x, y, w, h) in boxes.items()
            ]  # fmt: skip
            tasks.append({"id": len(tasks), "data": {"image": f"/data/upload/1/0a1b2c3d-{name}"},
                          "annotations": [{"was_cancelled": False, "result": results}]})  # fmt: skip
        (root / split / "export.json").write_text(json.dumps(tasks))


def make_labelme(root: Path) -> None:
    for split, images in IMAGES.items():
        for name, boxes in images.items():
            save(root / split, name)
            shapes = [
                {"label": label, "points": [[x, y], [x + w, y + h]], "shape_type": "rectangle"}
                for label, (x, y, w, h) in boxes.items()
            ]
            content = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": name, "imageData": None}
            (root / split / name).with_suffix(".json").write_text(json.dumps(content))


def make_openimages(root: Path) -> None:
    (root / "class-descriptions.csv").parent.mkdir(parents=True, exist_ok=True)
    (root / "class-descriptions.csv").write_text("/m/01yrx,cat\n/m/0bt9lr,dog\n")
    for split, images in IMAGES.items():
        rows = ["ImageID,Source,LabelName,Confidence"]
        for name, boxes in images.items():
            save(root / split, name)
            states = zip(("/m/01yrx", "/m/0bt9lr"), NAMES, strict=True)
            rows += [f"{name[0]},verification,{code},{int(label in boxes)}" for code, label in states]
        (root / f"{split}-annotations-human-imagelabels.csv").write_text("\n".join(rows) + "\n")


EXPORTS = {
    "metadata": make_metadata, "columns": make_columns, "voc": make_voc, "coco": make_coco, "yolo": make_yolo,
    "label_studio": make_label_studio, "labelme": make_labelme, "openimages": make_openimages,
}  # fmt: skip
BOXED = ("voc", "coco", "yolo", "label_studio", "labelme")
