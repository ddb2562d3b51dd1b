"""Every sample of a stream reaches exactly one process, once."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, List
from PIL import Image as PILImage
from safetensors.torch import load_file

SCRIPT = """
import itertools, json, os, sys
os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from msl_hf import MSLForImageClassification, MSLTrainer, MSLTrainingArguments, MaskBank
from msl_hf.data import MultiLabelCollator, build_processor, load_image_folder
from msl_hf.data.transforms import StreamedImages

data, backbone, output, workers = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
torch.set_num_threads(1)
stream = load_image_folder(data, streaming=True)["train"]
processor = build_processor(None, 32, [0.0] * 3, [1.0] * 3)
args = MSLTrainingArguments(output + "-run", use_cpu=True, max_steps=3, per_device_train_batch_size=4,
                            dataloader_num_workers=workers, dataloader_drop_last=False)
trainer = MSLTrainer(MSLForImageClassification.from_backbone(backbone, ["a", "b"], image_size=32), args,
                     MaskBank.patches(), processor, train_dataset=StreamedImages(stream, processor, shuffle_buffer=7),
                     data_collator=MultiLabelCollator(2))
loader = trainer.get_train_dataloader()
batches = itertools.islice(loader, 12 if args.world_size > 1 else None)  # of several processes it has no end
found = [round(image.mean().item() * 255) for batch in batches for image in batch["pixel_values"]]
json.dump(found, open(f"{output}-{args.process_index}.json", "w"))
"""


def write_greys(folder) -> None:
    """48 images of as many greys in four parquet files."""
    folder.mkdir()
    features = Features({"image": Image(), "labels": List(ClassLabel(names=["a", "b"]))})
    for file in range(4):
        greys = [5 * (12 * file + number) for number in range(12)]
        images = [PILImage.fromarray(np.full((32, 32, 3), grey, np.uint8)) for grey in greys]
        rows = Dataset.from_dict({"image": images, "labels": [[0]] * 12}, features=features)
        rows.to_parquet(folder / f"train-{file:05d}-of-00004.parquet")


def launch(script, processes: int, *arguments) -> None:
    """The script in so many processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}",
               str(script), *map(str, arguments)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("processes", [1, 2])
def test_every_sample_once_a_pass(processes, workers, backbone_folder, tmp_path):
    """48 images in four files; shuffled, but all there, and none twice: with two processes, each of
    which reads two files, in each of two passes."""
    write_greys(tmp_path / "data")
    (tmp_path / "script.py").write_text(SCRIPT)
    launch(
        tmp_path / "script.py", processes, tmp_path / "data", backbone_folder("timm_resnet"), tmp_path / "out", workers
    )
    shares = [json.loads((tmp_path / f"out-{rank}.json").read_text()) for rank in range(processes)]
    greys = [5 * number for number in range(48)]
    if processes == 1:
        assert sorted(shares[0]) == greys
        return
    for number in range(2):
        assert sorted(sum((share[24 * number : 24 * (number + 1)] for share in shares), [])) == greys
    assert all({grey // 60 for grey in share} != {0, 1, 2, 3} for share in shares)  # whole files of each


RESUMED = """
import hashlib, json, os, sys
os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from msl_hf import MSLForImageClassification, MSLTrainer, MSLTrainingArguments, MaskBank
from msl_hf.data import MultiLabelCollator, build_processor, load_image_folder
from msl_hf.data.transforms import StreamedImages

data, backbone, output, workers, checkpoint = sys.argv[1:]
torch.set_num_threads(1)
torch.manual_seed(0)
processor = build_processor(None, 32)
stream = load_image_folder(data, streaming=True)["train"]
args = MSLTrainingArguments(output, use_cpu=True, disable_tqdm=True, max_steps=10, save_strategy="steps", save_steps=7,
                            per_device_train_batch_size=4, dataloader_num_workers=int(workers), seed=1,
                            mask_fill="mixed")
seen = {}

class Trainer(MSLTrainer):
    def compute_loss(self, model, inputs, *args, **kwargs):
        seen[self.state.global_step] = hashlib.sha256(inputs["pixel_values"].numpy().tobytes()).hexdigest()
        return super().compute_loss(model, inputs, *args, **kwargs)

trainer = Trainer(MSLForImageClassification.from_backbone(backbone, ["a", "b"], image_size=32), args,
                     MaskBank.patches(), processor, data_collator=MultiLabelCollator(2),
                     train_dataset=StreamedImages(stream, processor, augment=True, shuffle_buffer=7, normalize=False))
trainer.train(resume_from_checkpoint=checkpoint or None)
trainer.save_model(output + "/last")
json.dump(seen, open(f"{output}/seen-{args.process_index}.json", "w"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_two_processes_go_on_with_their_shares(workers, backbone_folder, tmp_path):
    """From the seventh of ten steps, which is in the third pass of each process over its 24 images: the same images to
    the bit, and what the network learns from them and from their neighbours in the batch of both processes."""
    write_greys(tmp_path / "data")
    (tmp_path / "script.py").write_text(RESUMED)
    for name, checkpoint in (("whole", ""), ("resumed", str(tmp_path / "whole" / "checkpoint-7"))):
        launch(tmp_path / "script.py", 2, tmp_path / "data", backbone_folder("timm_resnet"), tmp_path / name, workers,
               checkpoint)  # fmt: skip
    for rank in range(2):
        whole, resumed = (
            json.loads((tmp_path / name / f"seen-{rank}.json").read_text()) for name in ("whole", "resumed")
        )
        assert list(resumed) == ["7", "8", "9"] and resumed.items() <= whole.items()
    whole, resumed = (load_file(tmp_path / name / "last" / "model.safetensors") for name in ("whole", "resumed"))
    torch.testing.assert_close(resumed, whole, rtol=1e-5, atol=1e-6)
