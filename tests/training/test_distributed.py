"""Two real processes (torchrun, gloo) against one."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, os, sys
os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from transformers import TrainerCallback
from msl_hf import MaskBank, MSLForImageClassification, MSLTrainer, MSLTrainingArguments

backbone, output, batch, masked_forward, fill = sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:]
torch.set_num_threads(1)
torch.manual_seed(0)
model = MSLForImageClassification.from_backbone(backbone, ["a", "b", "c"], image_size=32)
generator = torch.Generator().manual_seed(3)
images, labels = torch.randn(22, 3, 32, 32, generator=generator), torch.rand(22, 3, generator=generator).round()
data = [{"pixel_values": image, "labels": label} for image, label in zip(images, labels)]
symmetric = torch.eye(32, dtype=torch.bool) | torch.eye(32, dtype=torch.bool).flip(0)
args = MSLTrainingArguments(output + "-run", use_cpu=True, disable_tqdm=True, save_strategy="no", max_steps=2,
                            per_device_train_batch_size=batch, per_device_eval_batch_size=4, logging_steps=1, seed=1,
                            optim="sgd", learning_rate=0.1, lr_scheduler_type="constant", mask_fill=fill,
                            masked_forward=masked_forward)
trainer = MSLTrainer(model=model, args=args, masks=MaskBank(symmetric[None]), train_dataset=data)
trainer.train()
scores = trainer.predict(data)
bank = MaskBank(torch.rand(8, 32, 32, generator=generator) > 0.5)
trainer._micro_step = (0, 0)
drawn = bank.sample(8, 32, generator=trainer._counter_generator())
result = {"losses": [log["loss"] for log in trainer.state.log_history if "loss" in log],
          "components": [log["loss_consistency"] for log in trainer.state.log_history if "loss" in log],
          "weights": torch.cat([p.detach().flatten() for p in model.parameters()]).tolist(),
          "scored": len(scores.predictions), "processes": args.world_size, "mask": drawn.float().mean().item()}
json.dump(result, open(f"{output}-{args.process_index}.json", "w"))
"""


def run(
    processes: int, batch: int, name: str, backbone_folder, tmp_path, masked_forward="auto", fill="zero"
) -> list[dict]:
    """The script on so many processes; what each rank found."""
    script, output = tmp_path / "train.py", tmp_path / f"{processes}"
    script.write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    done = subprocess.run(
        [*launch, str(script), str(backbone_folder(name)), str(output), str(batch), masked_forward, fill],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((tmp_path / f"{processes}-{rank}.json").read_text()) for rank in range(processes)]


@pytest.mark.slow
def test_batchnorm_networks_train_with_two_forwards_a_step(backbone_folder, tmp_path):
    first, second = run(2, 4, "timm_resnet", backbone_folder, tmp_path)
    assert first["weights"] == second["weights"] and len(first["losses"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mode", "fill"),
    [("timm_vit", "auto", "zero"), ("hf_vit", "auto", "zero"), ("timm_vit", "sequential", "zero"),
     ("timm_vit", "auto", "image")],
)  # fmt: skip
def test_two_processes_equal_one_with_the_doubled_batch(name, mode, fill, backbone_folder, tmp_path):
    (one,) = run(1, 8, name, backbone_folder, tmp_path, fill=fill)
    two = run(2, 4, name, backbone_folder, tmp_path, mode, fill)
    assert [result["processes"] for result in two] == [2, 2]
    for result in two:
        assert result["losses"] == pytest.approx(one["losses"], rel=1e-5)
        assert result["components"] == pytest.approx(one["components"], rel=1e-4)
        assert result["weights"] == pytest.approx(one["weights"], abs=1e-5)
        assert result["scored"] == one["scored"] == 22
    assert two[0]["mask"] != two[1]["mask"]  # ranks draw different masks
    assert two[0]["mask"] == one["mask"]
