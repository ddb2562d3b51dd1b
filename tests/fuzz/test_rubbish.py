"""Files as they should not be: every case ends in a result, or in an error of the package that names the file."""

import io
import json
import random
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from exports import EXPORTS
from PIL import Image
from trees import make_coco, make_wider

from msl_hf import MaskBank, MSLForImageClassification
from msl_hf.console.configs import read_yaml
from msl_hf.console.errors import RunError, user_input
from msl_hf.data import load_coco, load_image_folder, load_images, load_voc, load_wider
from msl_hf.data.images import check_images, read_image
from msl_hf.data.schema import DataError, undecoded
from msl_hf.hub.convert import convert_checkpoint
from msl_hf.runs.networks import load_trained

pytestmark = pytest.mark.slow
CASES = 250  # of each kind of file
SECONDS = 20  # no case may take longer
MEMORY = 2 * 2**30  # bytes that all cases of a kind may add to the peak

VALUES = [None, True, -1, 0, 1e308, float("nan"), 10**30, "", "x", "../../etc/passwd", "/etc/passwd", "\0", "é" * 50,
          [], {}, [[]], [None], {"a": None}, "1" * 5000, -1e-320]  # fmt: skip


def mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    """Cut off, flipped, doubled, deleted, replaced."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 5, 30))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(6)
        if kind == 0:
            del data[at:]
        elif kind == 1 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            data[at:at] = rng.randbytes(rng.choice((1, 4, 200)))
        elif kind == 3:
            del data[at : at + rng.choice((1, 10, 500))]
        elif kind == 4:
            other = rng.randrange(len(data) + 1)
            data[at:at] = data[other : other + 100]
        else:
            data[at : at + 1] = rng.choice((b"<", b"&", b'"', b"{", b"\xff\xfe", b"\n\n", b"-", b"99999999999"))
    return bytes(data)


def mutate_json(content: bytes, rng: random.Random) -> bytes:
    """A value somewhere within replaced, removed or given another name; now and then bytes instead."""
    if rng.random() < 0.3:
        return mutate_bytes(content, rng)
    root = {"root": json.loads(content)}
    for _ in range(rng.choice((1, 1, 2, 4))):
        node, key = root, "root"
        while isinstance(node[key], (dict, list)) and node[key] and rng.random() < 0.85:
            node = node[key]
            key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        if rng.random() < 0.75 or node is root:
            node[key] = rng.choice(VALUES)
        elif isinstance(node, dict):
            node[rng.choice(("id", "bbox", "x"))] = node.pop(key)
        else:
            node.pop(key)
    return json.dumps(root["root"]).encode()


def mutate_lines(content: bytes, rng: random.Random) -> bytes:
    """JSON lines, one of which is mutated."""
    lines = content.splitlines()
    at = rng.randrange(len(lines))
    lines[at] = mutate_json(lines[at], rng)
    return b"\n".join(lines)


def picture(kind: str) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    if kind == "cmyk":
        image.convert("CMYK").save(file, "JPEG")
    elif kind == "16-bit":
        Image.fromarray(pixels[..., 0].astype(np.uint16) * 255).save(file, "PNG")
    elif kind == "palette":
        image.convert("P").save(file, "PNG", transparency=3)
    elif kind == "rotated":
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(file, "JPEG", exif=exif)
    elif kind == "animated":
        image.save(file, "GIF", save_all=True, append_images=[image.rotate(90)])
    else:
        image.save(file, kind.upper())
    return file.getvalue()


def run_cases(cases: int, mutate: Callable, good: dict[Path, bytes], load: Callable, tmp_path: Path, names: Callable):
    """Mutate one of the files for each case and load; how many ended in a result, and how many in an error."""

    def late(*_):
        raise TimeoutError(f"longer than {SECONDS} seconds")

    results = {"result": 0, "error": 0}
    signal.signal(signal.SIGALRM, late)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for case in range(cases):
        rng = random.Random(case)
        file = rng.choice(sorted(good))
        file.write_bytes(mutate(good[file], rng))
        signal.alarm(SECONDS)
        try:
            load()
            results["result"] += 1
        except (DataError, RunError) as error:
            assert names(file) in str(error) or tmp_path.name in str(error), f"case {case} ({file}): {error}"
            results["error"] += 1
        except Exception as error:
            raise AssertionError(f"case {case} ({file}) ended in {type(error).__name__}: {error}") from error
        finally:
            signal.alarm(0)
            file.write_bytes(good[file])
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MEMORY
    print(f"{cases} cases: {results}")
    assert results["error"] > 0
    return results


def contents(files) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in files}


def all_rows(datasets) -> None:
    for dataset in datasets.values():
        rows = undecoded(dataset)
        for index in range(len(rows)):
            rows[index]


@pytest.mark.parametrize("kind", ["Annotations/*.xml", "ImageSets/Main/*.txt"])
def test_voc(kind, scenes, tmp_path):
    root = tmp_path / "VOCdevkit"
    shutil.copytree(scenes, root)
    good = contents((root / "VOC2007").glob(kind))
    run_cases(CASES, mutate_bytes, good, lambda: all_rows(load_voc(root)), tmp_path, lambda file: file.name)


@pytest.mark.parametrize(("make", "load", "pattern"), [
    (make_coco, load_coco, "annotations/*.json"), (make_wider, load_wider, "*.json"),
])  # fmt: skip
def test_json_annotations(make, load, pattern, tmp_path):
    root = make(tmp_path / "data")
    good = contents(root.glob(pattern))
    run_cases(CASES, mutate_json, good, lambda: all_rows(load(root)), tmp_path, lambda file: file.name)


def test_metadata(tmp_path):
    folder = tmp_path / "photos" / "train"
    folder.mkdir(parents=True)
    lines = [json.dumps({"file_name": f"{n}.jpg", "labels": ["cat", "dog"][: n % 3]}) for n in range(6)]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    good = contents([folder / "metadata.jsonl"])
    run_cases(
        CASES, mutate_lines, good, lambda: all_rows(load_image_folder(folder.parent)), tmp_path, lambda f: f.name
    )


@pytest.mark.parametrize("format", ["by name", "auto"])
@pytest.mark.parametrize("name", EXPORTS)
def test_every_export(name, format, tmp_path):
    """A hundred mutated files of labels for each reader, called by its name and by what the folder looks like."""
    root = tmp_path / "data"
    EXPORTS[name](root)
    good = contents(file for file in root.rglob("*") if file.is_file() and file.suffix != ".png")
    ending = next(iter(good)).suffix
    mutate = {".json": mutate_json, ".jsonl": mutate_lines}.get(ending, mutate_bytes)

    def load():
        all_rows(load_images(root, "auto" if format == "auto" else name))

    run_cases(100, mutate, good, load, tmp_path, lambda file: file.name)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "gif", "cmyk", "16-bit", "palette", "rotated", "animated"])
def test_images(kind, tmp_path):
    file = tmp_path / "photo.jpg"  # under the wrong ending, too
    file.write_bytes(picture(kind))
    image = read_image({"image": {"path": str(file), "bytes": None}})
    assert image.mode == "RGB" and sorted(image.size) == [40, 50]
    row = {"image": {"path": str(file), "bytes": None}}
    run_cases(60, mutate_bytes, contents([file]), lambda: read_image(row), tmp_path, lambda f: f.name)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"<html><body>404</body></html>", b"GIF89a", b"\xff\xd8\xff"])
def test_what_is_no_image_at_all(content, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(content)
    with pytest.raises(DataError, match="photo.jpg: cannot be decoded"):
        read_image({"image": {"path": str(tmp_path / "photo.jpg"), "bytes": None}})


def test_a_decompression_bomb_is_an_error(tmp_path):
    Image.new("1", (40_000, 40_000)).save(tmp_path / "bomb.png")
    with pytest.raises(DataError, match="bomb.png: has more pixels than are let in .*--max_pixels"):
        read_image({"image": {"path": str(tmp_path / "bomb.png"), "bytes": None}})


def test_checking_a_folder_of_rubbish_lists_all_of_it(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    lines = []
    for number in range(40):
        content = picture("jpeg") if number % 2 else mutate_bytes(picture("png"), random.Random(number))[:200]
        (folder / f"{number}.jpg").write_bytes(content)
        lines.append(json.dumps({"file_name": f"{number}.jpg", "labels": ["cat"]}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    kept, messages = check_images(load_image_folder(folder)["train"], drop=True, progress=False)
    assert len(kept) == 20 and len(messages) == 20


def test_masks(tmp_path):
    for number in range(3):
        Image.fromarray(np.eye(64, dtype=np.uint8) * 255).save(tmp_path / f"mask{number}.png")

    def load():
        with user_input():
            MaskBank.from_folder(tmp_path, "white")

    run_cases(100, mutate_bytes, contents(tmp_path.glob("*.png")), load, tmp_path, lambda file: file.name)


def test_yaml(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("learning_rate: 3e-4\nloss_weights: [0.3, 0.2, 0.5]\nbackbone: x\n# comment\nseed: 1\n")
    run_cases(CASES, mutate_bytes, contents([file]), lambda: read_yaml(file), tmp_path, lambda f: f.name)


def test_configurations(tiny_model, tmp_path):
    from msl_hf.data import build_processor

    folder = tmp_path / "model"
    tiny_model().save_pretrained(folder)
    build_processor(None, 32).save_pretrained(folder)

    def load():
        with user_input():
            load_trained(str(folder))

    run_cases(100, mutate_json, contents([folder / "config.json"]), load, tmp_path, lambda file: file.name)


def test_foreign_checkpoints(tmp_path):
    file = tmp_path / "weights.pth"
    torch.save({"classifier.multi_head.0.head.weight": torch.ones(20, 8, 1, 1), "conv1.weight": torch.ones(4)}, file)

    def load():
        with user_input():
            convert_checkpoint(file, csra_lambda=0.1)

    run_cases(60, mutate_bytes, contents([file]), load, tmp_path, lambda f: f.name)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Malicious:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "was-here",))

    torch.save({"state_dict": Malicious()}, tmp_path / "weights.pth")
    with pytest.raises(OSError, match="weights.pth: cannot be read as a state dict of tensors"):
        convert_checkpoint(tmp_path / "weights.pth", csra_lambda=0.1)
    assert not (tmp_path / "was-here").exists()
    (tmp_path / "model").mkdir()
    (tmp_path / "weights.pth").rename(tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(OSError):
        MSLForImageClassification.from_pretrained(tmp_path / "model")
    assert not (tmp_path / "was-here").exists()
