"""Uploads, against a stand-in for the calls of the Hub."""

import functools
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import EntryNotFoundError
from huggingface_hub.utils import filter_repo_objects

from msl_hf import MaskBank, MSLTrainer, MSLTrainingArguments
from msl_hf.cli import main
from msl_hf.data import build_processor
from msl_hf.evaluation.metrics import metrics_from_logits

CODE = {"configuration_msl.py", "heads_msl.py", "modeling_msl.py", "pipeline_msl.py", "views_msl.py", "boxes_msl.py"}


class Images(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        labels = torch.eye(3)[index % 3]
        return {"pixel_values": torch.randn(3, 32, 32) + labels[:, None, None], "labels": labels}


@pytest.fixture
def uploads(monkeypatch, tmp_path):
    """Repository -> path -> content of everything that is uploaded."""
    stored: dict[str, dict[str, bytes]] = {}

    def create_repo(self, repo_id, **_):
        full = repo_id if "/" in repo_id else f"me/{repo_id}"
        stored.setdefault(full, {})
        return SimpleNamespace(repo_id=full)

    def create_commit(self, repo_id, operations, **_):
        for operation in operations:
            with operation.as_file() as file:
                stored[repo_id][operation.path_in_repo] = file.read()
        return SimpleNamespace(commit_url="", oid="")

    def upload_folder(self, *, repo_id, folder_path, ignore_patterns=None, **_):
        files = [str(file.relative_to(folder_path)) for file in Path(folder_path).rglob("*") if file.is_file()]
        for file in filter_repo_objects(files, ignore_patterns=ignore_patterns):
            stored[repo_id][file] = (Path(folder_path) / file).read_bytes()
        return SimpleNamespace(commit_url="", done=lambda: True, result=lambda: None)

    def hf_hub_download(repo_id, filename, **_):
        if filename not in stored[repo_id]:
            raise EntryNotFoundError(f"{filename} is not in {repo_id}")
        (tmp_path / filename).write_bytes(stored[repo_id][filename])
        return str(tmp_path / filename)

    monkeypatch.setattr("huggingface_hub.repocard.hf_hub_download", hf_hub_download)
    for function in (create_repo, create_commit, upload_folder):
        monkeypatch.setattr(HfApi, function.__name__, function)
        for module in (transformers.utils.hub, transformers.trainer):  # older versions have the functions by name
            if hasattr(module, function.__name__):
                monkeypatch.setattr(module, function.__name__, functools.partial(function, HfApi()))
    return stored


def test_the_model_alone_comes_with_a_short_card(tiny_model, uploads):
    tiny_model().push_to_hub("me/cats")
    files = uploads["me/cats"]
    assert set(files) == CODE | {"config.json", "model.safetensors", "README.md"}
    text = files["README.md"].decode()
    assert "knows no results" in text and 'model="me/cats"' in text
    assert ModelCard(text).data.eval_results is None
    uploads["me/dogs"] = {"README.md": b"---\nlicense: mit\n---\n# My own card\n"}
    tiny_model().push_to_hub("me/dogs")
    assert "# My own card" in uploads["me/dogs"]["README.md"].decode()


def test_a_trainer_uploads_model_processor_code_and_card(tiny_model, uploads, tmp_path):
    arguments = MSLTrainingArguments(str(tmp_path / "cats"), use_cpu=True, max_steps=2, per_device_train_batch_size=4,
                                     eval_strategy="steps", eval_steps=2, save_steps=2, report_to="none",
                                     disable_tqdm=True)  # fmt: skip
    data = {"train_dataset": Images(), "eval_dataset": Images(), "compute_metrics": metrics_from_logits}
    trainer = MSLTrainer(tiny_model(), arguments, MaskBank.patches(), build_processor(None, 32), **data)
    trainer.train()
    trainer.push_to_hub()
    files = uploads["me/cats"]
    assert CODE | {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"} <= set(files)
    assert not any("checkpoint" in file for file in files)
    card = ModelCard(files["README.md"].decode())
    measured = {result.metric_name: result.metric_value for result in card.data.eval_results}
    last = [log for log in trainer.state.log_history if "eval_mAP" in log][-1]
    assert measured["mAP"] == pytest.approx(100 * last["eval_mAP"], abs=0.01)
    assert "8 images" in card.text and "| loss_weights | [0.6, 0.4, 0.0] |" in card.text


def test_a_repository_by_its_id_or_a_message(tiny_model, uploads, tmp_path):
    arguments = MSLTrainingArguments(str(tmp_path / "cats"), use_cpu=True, report_to="none")
    trainer = MSLTrainer(tiny_model(), arguments, MaskBank.patches(), build_processor(None, 32))
    trainer.push_to_hub("you/photos")
    trainer.push_to_hub()  # there again
    assert set(uploads) == {"you/photos"} and "README.md" in uploads["you/photos"]
    trainer.push_to_hub("them/photos")
    trainer.push_to_hub("Better photographs")  # what Trainer takes first: the message
    assert set(uploads) == {"you/photos", "them/photos"}


def test_the_card_of_a_recipe_is_kept(tiny_model, uploads, tmp_path):
    from msl_hf.hub.card import write_card

    folder = tmp_path / "cats"
    arguments = MSLTrainingArguments(str(folder), use_cpu=True, report_to="none")
    trainer = MSLTrainer(tiny_model(), arguments, MaskBank.patches(), build_processor(None, 32))
    folder.mkdir(exist_ok=True)
    report = {"model": "last", "last": {"epoch": 1.0}, "dataset": "cats", "base_model": "x", "num_labels": 3,
              "train_split": "train", "test_split": None, "selection_split": None, "num_train_images": 12345,
              "num_test_images": 0, "train_seconds": 1.0, "hardware": "a", "command": "c",
              "versions": {"torch": "2", "transformers": "5", "msl_hf": "0"}}  # fmt: skip
    write_card(folder, report, {"loss_weights": [0.3, 0.2, 0.5]})
    trainer.push_to_hub()
    assert "12345 images" in uploads["me/cats"]["README.md"].decode()


def test_photographs_stay_at_home(uploads, scenes, backbone_folder, tmp_path, monkeypatch):
    """A run uploads its model and figures, and not the report, which shows images of the test split."""
    flags = ["--data_dir", scenes, "--backbone", backbone_folder("timm_resnet"), "--image_size", 32, "--max_steps", 1,
             "--push_to_hub", "true", "--hub_model_id", "me/scenes", "--output_dir", tmp_path / "out",
             "--use_cpu", "true", "--robustness_curve", "false", "--disable_tqdm", "true", "--cpu_threads", 1
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["msl-hf", "train-voc", *map(str, flags)])
    (tmp_path / "out").mkdir()
    main()
    assert {"metrics.json", "README.md", "model.safetensors"} <= set(uploads["me/scenes"])
    assert (tmp_path / "out" / "report.html").is_file() and "report.html" not in uploads["me/scenes"]
    main()  # again, over the report of before
    assert (tmp_path / "out" / "report.html").is_file() and "report.html" not in uploads["me/scenes"]


@pytest.mark.parametrize("metrics", [{"mAP": 0.5}, {"hits": 7}])
def test_the_card_shows_what_a_compute_metrics_of_ones_own_counts(metrics, tiny_model, uploads, tmp_path):
    arguments = MSLTrainingArguments(str(tmp_path / "cats"), use_cpu=True, report_to="none", max_steps=1,
                                     per_device_train_batch_size=4, eval_strategy="steps", eval_steps=1)  # fmt: skip
    data = {"train_dataset": Images(), "eval_dataset": Images(), "compute_metrics": lambda prediction: metrics}
    trainer = MSLTrainer(tiny_model(), arguments, MaskBank.patches(), build_processor(None, 32), **data)
    trainer.train()
    trainer.create_model_card()
    text = (tmp_path / "cats" / "README.md").read_text()
    assert ("| clean | 50.0 |" if "mAP" in metrics else "| hits | 7 |") in text
    assert "no held-out split" not in text
