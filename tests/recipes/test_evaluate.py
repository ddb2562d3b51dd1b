"""The recipe from its command line to its output folder."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import LABELS
from trees import ATTRIBUTES, make_coco, make_wider

from msl_hf import MaskBank, MSLForImageClassification, apply_mask, multilabel_metrics
from msl_hf.data import build_processor, load_voc
from msl_hf.data.scenes import CLASS_NAMES
from msl_hf.data.schema import class_names_of, column, make_targets, undecoded
from msl_hf.evaluation.occluders import CoveredObjects, covered_average_precision, find_pictures
from msl_hf.evaluation.thresholds import tune_thresholds
from msl_hf.masks import counter_generator

RECIPE = str(Path(__file__).parents[2] / "recipes" / "evaluate.py")


@pytest.fixture
def saved(tiny_model, tmp_path):
    """Saves a tiny model: name, class names and keywords of `from_backbone` -> its folder."""

    def save(name, label_names=CLASS_NAMES, image_size=32, backbone="timm_vit", **kwargs):
        model = tiny_model(backbone, label_names=list(label_names), image_size=image_size, **kwargs)
        torch.manual_seed(len(name))
        with torch.no_grad():  # random scores that differ
            model.head.weight.copy_(torch.randn_like(model.head.weight))
        folder = tmp_path / "models" / name
        model.save_pretrained(folder)
        build_processor(None, image_size).save_pretrained(folder)
        return folder

    return save


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs the recipe in this process, but for the measurement of speed: flags -> its metrics.json."""

    speed = {"latency_ms": 2.5, "latency_ms_p95": 3.0, "images_per_second": 800.0, "batch_size": 32}
    monkeypatch.setattr("msl_hf.runs.evaluate.measure_inference", lambda *_: speed)  # tested in runs/test_speed.py

    def run(*flags, out="out"):
        command = [RECIPE, "--output_dir", str(tmp_path / out), "--disable_tqdm", "true", "--cpu_threads", "1",
                   "--num_bootstrap", "20", "--masks", "patches", *(str(flag) for flag in flags)]  # fmt: skip
        monkeypatch.setattr(sys, "argv", command)
        runpy.run_path(RECIPE, run_name="__main__")
        return json.loads((tmp_path / out / "metrics.json").read_text())

    return run


def test_two_models_side_by_side(run, saved, scenes, tmp_path, capsys):
    models = saved("plain"), saved("msl", image_size=48)
    report = run("--data_dir", scenes, "--model", *models, "--hole_ratio", 0.2, 0.3, 0.5, 0.6)
    assert report["num_images"] == 11 and report["split"] == "test" and list(report["models"]) == ["plain", "msl"]
    printed = capsys.readouterr().out
    for name, result in report["models"].items():
        assert [row["hole_ratio"] for row in result["robustness"]] == [[0.2, 0.3], [0.5, 0.6]]
        assert set(result["per_class_AP"]) == set(CLASS_NAMES)
        values = [value for value in result["per_class_AP"].values() if value is not None]
        assert np.mean(values) == pytest.approx(result["clean"]["mAP"])
        assert set(result["clean"]["top3"]) == {"CP", "CR", "CF1", "OP", "OR", "OF1"}
        assert set(result["breakdown"]) >= {"size", "truncation", "overlap", "visible"}
        assert f"{name}: 2.5 ms an image" in printed
        assert name in printed and f"{100 * result['clean']['mAP']:.1f}" in printed
    small = [report["models"][name]["breakdown"]["size"]["small"] for name in ("plain", "msl")]
    assert small[1]["minus_first"] == pytest.approx(small[1]["AP"] - small[0]["AP"]) and "minus_first" not in small[0]
    for picture in ("robustness.png", "breakdown.png"):
        assert Image.open(tmp_path / "out" / picture).size[0] > 500


@pytest.mark.slow
def test_means_over_the_seeds_of_two_trainings(run, saved, scenes, capsys):
    models = [saved(name) for name in ("plain-1", "plain-22", "plus-1", "plus-22")]
    report = run("--data_dir", scenes, "--model", *models, "--num_seeds", 2, "--occluders", "black", "--covered", 0.5)
    single, means = report["models"], report["trainings"]
    assert list(single) == ["plain-1", "plain-22", "plus-1", "plus-22"] and list(means) == ["plain", "plus"]
    for name in means:
        seeds = [single[f"{name}-1"], single[f"{name}-22"]]
        assert means[name]["clean"]["mAP"] == pytest.approx(np.mean([seed["clean"]["mAP"] for seed in seeds]))
    covered = {name: result["occluders"]["black"][0] for name, result in (single | means).items()}
    assert "minus_first" not in covered["plain-1"] and "minus_first" not in covered["plain-22"]
    differences = [covered[f"plus-{seed}"]["AP"] - covered[f"plain-{seed}"]["AP"] for seed in (1, 22)]
    assert [covered[f"plus-{seed}"]["minus_first"] for seed in (1, 22)] == pytest.approx(differences)
    assert covered["plus"]["minus_first"] == pytest.approx(np.mean(differences))
    low, high = covered["plus"]["minus_first_interval"]
    assert low <= high and "samples" not in json.dumps(report)
    assert "plus-1" not in capsys.readouterr().out  # tables show the means


def test_figures_are_those_of_the_public_functions(run, saved, scenes):
    """Scores of clean, mirrored and masked images, one image at a time, by the model and processor alone."""
    folder = saved("m")
    flags = ("--data_dir", scenes, "--model", folder, "--seed", 3)
    report = run(*flags, "--views", "whole", "whole+mirror", "2x2+whole@48")["models"]["m"]
    model = MSLForImageClassification.from_pretrained(folder).eval()
    processor, data = build_processor(None, 32), load_voc(scenes)["test"]
    bank, scores = MaskBank.patches(0.55), {"clean": [], "mirror": [], "tiles": [], "masked": []}
    targets = np.zeros((11, 10))
    for index, row in enumerate(data):
        image = processor(row["image"], return_tensors="pt").pixel_values
        keep = bank.sample(1, (32, 32), generator=counter_generator(3, index))
        masked = apply_mask(image, keep, processor.image_mean, processor.image_std)
        with torch.no_grad():
            clean, mirrored, hidden = (model(x).logits[0] for x in (image, image.flip(-1), masked))
        scores["clean"].append(clean)
        scores["mirror"].append((clean + mirrored) / 2)
        scores["tiles"].append(model.view_logits([row["image"]], processor, "2x2+whole@48")[0])
        scores["masked"].append(hidden)
        targets[index, row["ignored"]] = -100
        targets[index, row["labels"]] = 1
    scores = {name: torch.stack(values).sigmoid().numpy() for name, values in scores.items()}
    expected = {name: multilabel_metrics(values, targets) for name, values in scores.items()}
    views = report["views"]
    for name, found in (("clean", report["clean"]), ("clean", views["whole"]), ("mirror", views["whole+mirror"]),
                        ("tiles", views["2x2+whole@48"]), ("masked", report["robustness"][0])):  # fmt: skip
        assert {key: found[key] for key in expected[name]} == pytest.approx(expected[name], abs=1e-6), name
    assert [view["cost"] for view in views.values()] == [1, 2, 4 + 1.5**2]
    assert all(view["images_per_second"] > 0 for view in views.values())
    for row in (report, views["whole"]):  # see evaluation/test_localisation.py
        assert set(row["localisation"]) == {"all", "small", "medium", "large"}
        assert row["localisation"] == report["localisation"] and 0 <= row["localisation"]["all"]["pointing"] <= 1
    # AP of a group by hand, and what the bootstrap says of a difference that is none.
    small = views["whole"]["breakdown"]["size"]["small"]
    assert small == report["breakdown"]["size"]["small"] and "minus_first" not in small
    tiles = views["2x2+whole@48"]["breakdown"]
    assert tiles["mAP"]["all images"]["AP"] == pytest.approx(expected["tiles"]["mAP"])
    difference = expected["tiles"]["mAP"] - expected["clean"]["mAP"]
    assert tiles["mAP"]["all images"]["minus_first"] == pytest.approx(difference)
    low, high = tiles["mAP"]["all images"]["minus_first_interval"]
    assert low <= high and tiles["size"]["small"]["minus_first"] == pytest.approx(
        tiles["size"]["small"]["AP"] - small["AP"]
    )


def test_covered_objects_of_two_models(run, saved, scenes, tmp_path, capsys):
    """Scores of each picture by the model and processor alone; the same pictures for both models."""
    flags = ("--data_dir", scenes, "--seed", 2, "--occluders", "noise", "image", "--covered", 0.5, 0.9)
    report = run(*flags, "--model", saved("m"), saved("other", head="linear"))
    kinds = report["models"]["m"]["occluders"]
    assert {kind: [row["covered"] for row in rows] for kind, rows in kinds.items()} == {
        "nothing": [0.0], "noise": [0.5, 0.9], "image": [0.5, 0.9]
    }  # fmt: skip
    model = MSLForImageClassification.from_pretrained(tmp_path / "models" / "m").eval()
    processor, data = build_processor(None, 32), load_voc(scenes)["test"]
    targets = make_targets(list(data), 10, ignored_as="ignore").numpy()
    pictures = find_pictures(column(data, "objects"), targets, 2)
    images = CoveredObjects(undecoded(data), processor, pictures, "image", 0.9, 2)
    shown = [images.image(number) for number in range(len(images))]
    scores = model.view_logits(shown, processor).sigmoid().numpy()
    expected = covered_average_precision(scores, pictures, targets, "image", 20, 2)
    assert kinds["image"][1]["AP"] == pytest.approx(expected["AP"], abs=1e-6)
    assert kinds["image"][1]["interval"] == pytest.approx(expected["interval"], abs=1e-6)
    other = report["models"]["other"]["occluders"]["image"][1]
    assert other["minus_first"] == pytest.approx(other["AP"] - kinds["image"][1]["AP"])
    assert other["minus_first_interval"][0] <= other["minus_first_interval"][1]
    assert f"image      90%   m {100 * expected['AP']:.1f}" in capsys.readouterr().out
    assert Image.open(tmp_path / "out" / "occluders.png").size[0] > 500


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--occluders", "white"), "--occluders takes some of black, noise, image, got white"),
        (("--occluders", "black", "--covered", "1.5"), r"--covered takes shares in \(0, 1\]"),
    ],
)
def test_occluders_that_cannot_be(flags, message, run, saved, scenes):
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        run("--data_dir", scenes, "--model", saved("m"), *flags)


def test_occluders_need_boxes(run, saved, tmp_path):
    wider = saved("wider", ATTRIBUTES)
    with pytest.raises(SystemExit, match="--occluders cover the objects of split 'test', which has no boxes"):
        run("--dataset", "wider", "--data_dir", make_wider(tmp_path / "w"), "--model", wider, "--occluders", "black")


def test_views_are_tuned_on_another_split_and_stored(run, saved, scenes, capsys):
    folder = saved("m")
    flags = ("--data_dir", scenes, "--model", folder)
    given = ("--views", "mirror", "2x2@32")
    result = run(*flags, "--tune_views", "val", *given)["models"]["m"]
    rows = result["tuned_views"]
    assert [row["view"] for row in rows] == ["whole", "mirror", "2x2@32"] and [row["cost"] for row in rows] == [
        1,
        1,
        4,
    ]
    model = MSLForImageClassification.from_pretrained(folder)
    best = max(rows, key=lambda row: row["mAP"])
    assert model.config.views == best["view"] and model.config.thresholds == result["thresholds"]
    # The thresholds are those of the scores through this view.
    data, processor = load_voc(scenes)["val"], build_processor(None, 32)
    scores = model.view_logits([row["image"] for row in data], processor).sigmoid().numpy()
    targets = make_targets(list(data), 10, ignored_as="ignore").numpy()
    np.testing.assert_allclose(tune_thresholds(scores, targets), result["thresholds"], atol=1e-5)
    assert multilabel_metrics(scores, targets)["mAP"] == pytest.approx(best["mAP"])
    assert f"{best['view']:<8}" in capsys.readouterr().out
    # From the configuration, without being told.
    again = run(*flags)["models"]["m"]
    if model.config.views != "whole":
        assert list(again["views"]) == [model.config.views]
    assert again["clean_own_thresholds"] == result["clean_own_thresholds"]
    # Without names, usual ones within the cost.
    rows = run(*flags, "--tune_views", "val", "--view_cost", 2.5)["models"]["m"]["tuned_views"]
    assert len(rows) > 2 and all(row["cost"] <= 2.5 for row in rows) and rows[0]["view"] == "whole"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--views", "2by2"), "'2by2' is no view"),
        (("--views", "whole@36"), "the view whole@36: image_size 36 is no multiple of the backbone's patches"),
        (("--tune_views", "test"), "--tune_views test would tune on images that are measured on"),
        (("--tune_views", "val", "--tune_thresholds", "train"), "--tune_views tunes the thresholds, too, on its own"),
        (("--tune_views", "val", "--views", "3x3"), "3x3 costs 9 times the plain pass; raise --view_cost"),
    ],
)
def test_views_that_cannot_be(flags, message, run, saved, scenes):
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        run("--data_dir", scenes, "--model", saved("m"), *flags)


@pytest.mark.slow
def test_masks_do_not_depend_on_the_batch_size(run, saved, scenes):
    flags = ("--data_dir", scenes, "--model", saved("m"), "--seed", 3)
    one = run(*flags, "--per_device_eval_batch_size", 2)["models"]["m"]["robustness"]
    two = run(*flags, "--dataloader_num_workers", 2, out="two")["models"]["m"]["robustness"]
    assert one[0]["mAP"] == pytest.approx(two[0]["mAP"], abs=1e-9)


def test_thresholds_are_tuned_on_another_split_and_stored(run, saved, scenes, capsys):
    folder = saved("m")
    before = json.loads((folder / "config.json").read_text())
    result = run("--data_dir", scenes, "--model", folder, "--tune_thresholds", "val")["models"]["m"]
    config = json.loads((folder / "config.json").read_text())
    assert config.pop("thresholds") == result["thresholds"] and len(result["thresholds"]) == 10
    assert {**before, "thresholds": None} == {**config, "thresholds": None}
    assert MSLForImageClassification.from_pretrained(folder).config.thresholds == result["thresholds"]
    assert result["clean_own_thresholds"]["mAP"] == result["clean"]["mAP"]
    assert "own thresholds" in capsys.readouterr().out
    again = run("--data_dir", scenes, "--model", folder)["models"]["m"]  # from the config, without tuning
    assert again["clean_own_thresholds"] == result["clean_own_thresholds"]
    assert again["per_class_own_thresholds"] == result["per_class_own_thresholds"]


def test_a_class_gets_the_recall_that_is_asked_for(run, saved, scenes, capsys):
    folder = saved("m")
    flags = ("--data_dir", scenes, "--model", folder, "--tune_thresholds", "val", "--min_recall", "ring=1")
    result = run(*flags)["models"]["m"]
    data, processor = load_voc(scenes), build_processor(None, 32)
    ring = class_names_of(data["val"]).index("ring")
    network = MSLForImageClassification.from_pretrained(folder)

    def of_rings(split):
        targets = make_targets(list(data[split]), 10, ignored_as="ignore").numpy()[:, ring]
        scores = network.view_logits([row["image"] for row in data[split]], processor).sigmoid().numpy()[:, ring]
        return scores[targets == 1]

    threshold = result["thresholds"][ring]
    assert threshold <= of_rings("val").min()
    recall = (of_rings("test") >= threshold).mean()
    assert result["per_class_own_thresholds"]["ring"]["recall"] == pytest.approx(recall)
    assert f"m, ring: threshold {threshold:.3f}, recall {recall:.1%}" in capsys.readouterr().out
    for wrong, message in (
        (("--min_recall", "ring=1"), "say on which split with --tune_thresholds"),
        (("--tune_thresholds", "val", "--min_recall", "king=1"), "no class 'king'; write CLASS=RECALL, with one of"),
        (("--tune_thresholds", "val", "--min_recall", "ring=2"), r"a recall lies in \(0, 1\]"),
        (("--tune_thresholds", "val", "--min_recall", "ring=x"), r"a recall lies in \(0, 1\]"),
    ):
        with pytest.raises(SystemExit, match=message):
            run("--data_dir", scenes, "--model", folder, *wrong)


@pytest.mark.slow
def test_every_kind_of_data(run, saved, tmp_path):
    coco = saved("coco", ["person", "dog", "toothbrush", "cat"])  # knows more classes than the data
    report = run("--dataset", "coco", "--data_dir", make_coco(tmp_path / "coco"), "--model", coco)
    assert report["split"] == "validation" and report["num_images"] == 5
    result = report["models"]["coco"]
    assert result["per_class_AP"]["toothbrush"] is None and "truncation" not in result["breakdown"]
    wider = saved("wider", ATTRIBUTES)
    flags = ("--dataset", "wider", "--data_dir", make_wider(tmp_path / "wider"), "--model", wider)
    strict, reference = run(*flags), run(*flags, "--ignored_as_negative", "true", out="reference")
    strict, reference = (report["models"]["wider"] for report in (strict, reference))
    assert (strict["breakdown"].pop("num_images"), strict["breakdown"].pop("num_images_without_boxes")) == (0, 18)
    assert set(strict["breakdown"]) == {"mAP"}  # which needs no boxes
    assert strict["clean"]["mAP"] == reference["clean"]["mAP"] and strict["clean"]["OP"] > reference["clean"]["OP"]


def test_photographs_in_a_folder(run, saved, tmp_path):
    folder = tmp_path / "photos" / "test"
    folder.mkdir(parents=True)
    lines = []
    for index in range(6):
        Image.new("RGB", (20, 20), (40 * index, 0, 0)).save(folder / f"{index}.png")
        lines.append(json.dumps({"file_name": f"{index}.png", "labels": [LABELS[index % 3]]}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    report = run("--dataset", "folder", "--data_dir", folder.parent, "--model", saved("m", LABELS))
    assert report["models"]["m"]["breakdown"]["num_images_without_boxes"] == 6
    assert not (tmp_path / "out" / "breakdown.png").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--hole_ratio", "0.5"], "two numbers for each interval"),
        (["--size_limits", "96", "32"], "the smaller first"),
        (["--split", "tset"], "no split 'tset'"),
        (["--num_seeds", "2"], "takes as many models of each training, got 1"),
        (["--tune_thresholds", "test"], "would tune on images that are measured on"),
        (["--split", "val", "--tune_thresholds", "validation"], "would tune on images that are measured on"),
        (["--split", "val", "--tune_thresholds", "trainval"], "would tune on images that are measured on"),
        (["--dataset", "coco"], "holds no COCO annotations"),
        (["--model", "no-such-model"], "no-such-model"),
        (["--no_such_flag", "1"], "unknown arguments: --no_such_flag 1"),
    ],
)
def test_mistakes_end_with_a_message(flags, message, run, saved, scenes, tmp_path):
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        run("--data_dir", scenes, "--model", saved("m"), *flags)
    assert not (tmp_path / "out").exists()


def test_classes_that_the_model_does_not_know(run, saved, scenes):
    with pytest.raises(SystemExit, match="its 3 classes lack arrow, ball, box, cone, cross, ... of the data"):
        run("--data_dir", scenes, "--model", saved("m", LABELS))


def test_missing_image_is_named_or_dropped(run, saved, scenes, tmp_path):
    broken = shutil.copytree(scenes, tmp_path / "VOCdevkit")
    sorted((broken / "VOC2007" / "JPEGImages").glob("2*"))[3].unlink()
    with pytest.raises(SystemExit, match="200003.jpg: no such image file"):
        run("--data_dir", broken, "--model", saved("m"))
    assert run("--data_dir", broken, "--model", saved("m"), "--drop_bad_images", "true")["num_images"] == 10


@pytest.mark.slow
def test_two_processes_measure_the_same(saved, scenes, tmp_path):
    flags = ["--data_dir", str(scenes), "--model", str(saved("m")), "--masks", "patches", "--use_cpu", "true",
             "--num_bootstrap", "20", "--disable_tqdm", "true"]  # fmt: skip
    results = []
    for launcher in (["accelerate.commands.launch"], ["torch.distributed.run", "--standalone", "--nproc_per_node=2"]):
        out = tmp_path / launcher[0]
        command = [sys.executable, "-m", *launcher, RECIPE, *flags, "--output_dir", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240,
                              env={**os.environ, "HF_HUB_OFFLINE": "1"})  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count("Everything: ") == 1
        results.append(json.loads((out / "metrics.json").read_text())["models"]["m"])
    assert results[0]["clean"]["mAP"] == pytest.approx(results[1]["clean"]["mAP"], abs=1e-6)
    assert results[0]["per_class_AP"] == pytest.approx(results[1]["per_class_AP"], abs=1e-6)
    assert results[0]["robustness"][0]["mAP"] == pytest.approx(results[1]["robustness"][0]["mAP"], abs=1e-6)


def test_removed_pixels_are_what_they_were_in_training(run, saved, scenes):
    flags = ("--data_dir", scenes, "--model", saved("m"))
    black, grey = run(*flags), run(*flags, "--mask_fill", "zero", out="grey")
    assert (black["mask_fill"], grey["mask_fill"]) == ("black", "zero")
    rows = [report["models"]["m"]["robustness"][0]["mAP"] for report in (black, grey)]
    assert rows[0] != rows[1] and black["models"]["m"]["clean"] == grey["models"]["m"]["clean"]


@pytest.mark.slow
def test_masks_that_a_model_has_seen_are_named(run, saved, scenes, tmp_path, capsys):
    """Trained with all of a folder, since its masked test came from elsewhere, or since there was none."""
    rng = np.random.default_rng(0)
    (tmp_path / "masks").mkdir()
    for number in range(6):
        holes = 255 * (rng.random((64, 64)) < 0.55).astype(np.uint8)
        Image.fromarray(holes).save(tmp_path / "masks" / f"{number}.png")
    masks = str(tmp_path / "masks")
    runs = {
        "half": {"masks": masks, "eval_masks": None},
        "whole": {"masks": masks, "eval_masks": "generated"},
        "untested": {"masks": masks, "eval_masks": None},
        "other": {"masks": "generated", "eval_masks": None},
    }
    folders = [saved(name) for name in runs]
    for folder, settings in zip(folders, runs.values(), strict=True):
        (folder / "run.json").write_text(json.dumps(settings))
    (folders[2] / "metrics.json").write_text(json.dumps({"test_split": None}))
    report = run("--data_dir", scenes, "--model", *folders, "--masks", tmp_path / "models" / ".." / "masks")
    assert [model["masks_seen_in_training"] for model in report["models"].values()] == [False, True, True, False]
    assert capsys.readouterr().out.count("was trained with all masks of") == 2
    shutil.copytree(folders[1], folders[1] / "last", ignore=lambda *_: ["run.json"])
    shutil.copytree(tmp_path / "masks", tmp_path / "masks" / "sub")
    for model, masks in ((folders[1] / "last", "masks"), (folders[1], "masks/sub")):
        run("--data_dir", scenes, "--model", model, "--masks", tmp_path / masks)
        assert "was trained with all masks of" in capsys.readouterr().out
