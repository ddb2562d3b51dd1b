"""Gradients of several processes, and FSDP2, in two real processes on a CPU, where Accelerate would not shard."""

import json
import subprocess
import sys

import pytest
import torch
from accelerate.utils import merge_fsdp_weights

from msl_hf import MSLForImageClassification

SHARDED = """
import os, sys
os.environ["HF_HUB_OFFLINE"] = "1"
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as checkpoint
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from msl_hf import MSLForImageClassification, MSLLoss

backbone, output = sys.argv[1:]
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, mesh = dist.get_rank(), init_device_mesh("cpu", (2,))
sharded, whole = (MSLForImageClassification.from_backbone(backbone, list("abc"), image_size=32) for _ in range(2))
sharded.head.load_state_dict(whole.head.state_dict())
for weight in whole.state_dict().values():
    dist.broadcast(weight, 0)
sharded.load_state_dict(whole.state_dict())
fully_shard(sharded.backbone, mesh=mesh)
fully_shard(sharded, mesh=mesh)
assert all(isinstance(parameter, DTensor) for parameter in sharded.parameters())
generator = torch.Generator().manual_seed(1)
images = torch.randn(8, 3, 32, 32, generator=generator)
labels = (torch.rand(8, 3, generator=generator) > 0.5).float()
masked = images * (torch.rand(8, 1, 32, 32, generator=generator) > 0.5)
for model, chosen in ((sharded, slice(4 * rank, 4 * rank + 4)), (whole, slice(0, 8))):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        logits, hidden = (model(pixel_values=pixels[chosen]).logits for pixels in (images, masked))
        MSLLoss()(logits, hidden, labels[chosen])["loss"].backward()
        optimizer.step()
checkpoint.save({"model": get_model_state_dict(sharded)}, checkpoint_id=output + "/pytorch_model_fsdp_0")
if rank == 0:
    whole.save_pretrained(output + "/whole")
dist.destroy_process_group()
"""
REDUCED = """
import json, os, sys
os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from msl_hf import MSLForImageClassification, MSLTrainer, MSLTrainingArguments

backbone, output, masked_forward, accumulated = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
torch.set_num_threads(1)
torch.manual_seed(0)


class Counted(MSLTrainer):
    reduced = []

    def training_step(self, model, *arguments, **keywords):
        if not self.reduced:
            model.register_comm_hook(None, self.count)
        self.reduced.append(0)
        return super().training_step(model, *arguments, **keywords)

    def count(self, state, bucket):
        self.reduced[-1] += sum(gradient.numel() for gradient in bucket.gradients())
        return allreduce_hook(None, bucket)


model = MSLForImageClassification.from_backbone(backbone, ["a", "b", "c"], image_size=32)
data = [{"pixel_values": torch.randn(3, 32, 32), "labels": torch.ones(3)} for _ in range(32)]
args = MSLTrainingArguments(output + "-run", use_cpu=True, disable_tqdm=True, save_strategy="no", max_steps=2,
                            per_device_train_batch_size=4, mask_fill="zero", masked_forward=masked_forward,
                            gradient_accumulation_steps=accumulated, ddp_bucket_cap_mb=1)
trainer = Counted(model=model, args=args, train_dataset=data)
trainer.train()
trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
with open(f"{output}-{args.process_index}.json", "w") as file:
    json.dump([trained, trainer.reduced], file)
os._exit(0)  # threads of a process group with a hook of Python's now and then abort while it is taken down
"""


def launch(script: str, folder, *arguments: str) -> None:
    """The script in two processes."""
    (folder / "script.py").write_text(script)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
               str(folder / "script.py"), *arguments]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_forwards_of_a_sharded_network_and_its_checkpoint(backbone_folder, tmp_path):
    """Three steps as those of one process with the whole batch; the shards, merged, load with `from_pretrained`."""
    launch(SHARDED, tmp_path, str(backbone_folder("timm_vit")), str(tmp_path))
    merge_fsdp_weights(str(tmp_path / "pytorch_model_fsdp_0"), str(tmp_path / "merged"))
    (tmp_path / "merged" / "config.json").write_bytes((tmp_path / "whole" / "config.json").read_bytes())
    merged, whole = (MSLForImageClassification.from_pretrained(tmp_path / name) for name in ("merged", "whole"))
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(merged(images).logits, whole(images).logits, atol=1e-5, rtol=1e-5)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(merged.state_dict()[name], value, atol=1e-6, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "masked_forward", "accumulated"),
    [("timm_resnet", "separate", 1), ("timm_resnet", "sequential", 1), ("timm_vit", "sequential", 2),
     ("timm_vit", "visible", 1)],
)  # fmt: skip
def test_every_gradient_is_reduced_once_a_step(network, masked_forward, accumulated, backbone_folder, tmp_path):
    """Whatever the number of forwards, of backwards and of micro-batches."""
    launch(REDUCED, tmp_path, str(backbone_folder(network)), str(tmp_path / "out"), masked_forward, str(accumulated))
    first, second = (json.loads((tmp_path / f"out-{rank}.json").read_text()) for rank in range(2))
    trained, reduced = first
    assert reduced == second[1] == ([0] * (accumulated - 1) + [trained]) * 2
