"""Small trees in the exact formats of the data sets that tests cannot download."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

COCO_CATEGORIES = [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}, {"id": 18, "name": "dog"}]
ATTRIBUTES = ("Male", "longHair", "sunglass", "Hat", "Tshirt", "longSleeve", "formal", "shorts", "jeans", "longPants",
              "skirt", "faceMask", "logo", "stripe")  # fmt: skip


def save_image(path: Path, width: int, height: int, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def coco_instances(split: str, year: int, num_images: int) -> dict:
    """What instances_<split><year>.json holds: the last image has no label, the one before only a crowd."""
    prefix = f"COCO_{split}{year}_" if year == 2014 else ""
    images, annotations = [], []
    for number in range(num_images):
        image_id = (100 if split == "train" else 200) + number
        images.append({"id": image_id, "file_name": f"{prefix}{image_id:012d}.jpg", "width": 60, "height": 40})
        if number == num_images - 1:
            continue
        for category, side in ((1, 10 + number), (18, 20)):
            if category == 1 or number % 2 == 0:
                annotations.append({
                    "id": len(annotations), "image_id": image_id, "category_id": category,
                    "bbox": [5.5, 6.25, side, 20], "area": side * 15.5, "iscrowd": int(number == num_images - 2),
                })  # fmt: skip
    return {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": COCO_CATEGORIES}


def make_coco(root: Path, year: int = 2014, num_images: int = 6) -> Path:
    """A COCO tree of both splits, official names, three categories in a scrambled order."""
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        content = coco_instances(split, year, num_images)
        for record in content["images"]:
            save_image(root / f"{split}{year}" / record["file_name"], 60, 40, record["id"])
        (root / "annotations" / f"instances_{split}{year}.json").write_text(json.dumps(content))
    return root


def wider_annotations(official: str, num_images: int, seed: int) -> dict:
    """What wider_attribute_<official>.json holds; every second box leaves its image."""
    rng = np.random.default_rng(seed)
    images = []
    for number in range(num_images):
        targets = []
        for person in range(1 + number % 3):
            bbox = [-4.5, 3, 24.5, 30] if person % 2 else [10.25, 5.5, 20, 31.5]
            targets.append({"bbox": bbox, "attribute": [int(state) for state in rng.integers(-1, 2, 14)]})
        images.append({"file_name": f"{official}/0--Parade/0_Parade_{number}.jpg", "scene_id": 0, "targets": targets})
    return {
        "images": images,
        "attribute_id_map": {str(index): name for index, name in enumerate(ATTRIBUTES)},
        "scene_id_map": {"0": "Parade"},
    }


def make_wider(root: Path, num_images: int = 9) -> Path:
    """A WIDER-Attribute tree: `Image/` and the two JSON files."""
    for seed, official in enumerate(("trainval", "test")):
        content = wider_annotations(official, num_images, seed)
        for number, record in enumerate(content["images"]):
            save_image(root / "Image" / record["file_name"], 50, 40, number)
        (root / f"wider_attribute_{official}.json").write_text(json.dumps(content))
    return root


def make_checkpoint(
    folder: Path, without=None, state='{"global_step": 1}', settings: str | None = '{"seed": 1}'
) -> None:
    """A checkpoint of a run of these settings, whose files can be opened."""
    folder.mkdir(parents=True)
    for name in {"optimizer.pt", "scheduler.pt"} - {without}:
        torch.save({"a": torch.zeros(1000)}, folder / name)
    save_file({"a": torch.zeros(1000)}, folder / "model.safetensors")
    if state is not None:
        (folder / "trainer_state.json").write_text(state)
    if settings is not None:
        (folder / "run.json").write_text(settings)
