"""What a training step and inference cost: plain, the published MSL step, and this package's, side by side."""

import contextlib
import copy
import json
import platform
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate.state import AcceleratorState
from torch import nn
from torch.nn import functional as F

from ..data.transforms import build_processor
from ..masks import MaskBank, apply_mask
from ..model import MSLForImageClassification
from ..model.heads_msl import TEMPERATURES, CSRAHead
from ..training import MSLTrainer, MSLTrainingArguments
from ..training.trainer import joint_equals_separate
from .arguments import RunError
from .hardware import keep_freed_memory, set_cpu_threads
from .output import write_json
from .speed import measure_inference, time_calls

# Name -> timm architecture, side of the input in pixels, batch size that a CPU bears.
NETWORKS = {
    "lite0_224": ("tf_efficientnet_lite0", 224, 16),
    "resnet50_224": ("resnet50", 224, 8),
    "vit_small_224": ("vit_small_patch16_224", 224, 8),
    "resnet50_448": ("resnet50", 448, 4),
    "resnet101_448": ("resnet101", 448, 4),
    "vit_base_384": ("vit_base_patch16_384", 384, 2),
}
QUICK = ("lite0_224", "resnet50_224", "vit_small_224")
NUM_LABELS, NUM_HEADS = 80, 4  # as on COCO

# The trainer's step: how it is set up. The published step: which improvements are switched on alone.
TRAINER = {
    "plain": {"loss_weights": [1.0, 0.0, 0.0]},
    "ours": {},
    "plain_bf16": {"loss_weights": [1.0, 0.0, 0.0], "bf16": True},
    "ours_bf16": {"bf16": True},
    "visible": {"masked_forward": "visible"},
    "sequential": {"masked_forward": "sequential"},
}
REFERENCE = {
    "reference": {},
    "reference_channels_last": {"channels_last": True},
    "reference_one_product": {"one_product": True},
    "reference_joint": {"joint": True},
    "reference_bf16": {"bf16": True},
}
VARIANTS = (*TRAINER, *REFERENCE)
# Images/s of the first over images/s of the second; for `_time` that is time of the second over time of the first.
RATIOS = {
    "train_fp32": ("ours", "reference"),
    "train_bf16": ("ours_bf16", "reference"),
    "msl_over_plain_time": ("plain", "ours"),
    "visible_over_plain_time": ("plain", "visible"),
    "sequential_over_plain_time": ("plain", "sequential"),
    "channels_last_alone": ("reference_channels_last", "reference"),
    "one_product_alone": ("reference_one_product", "reference"),
    "joint_alone": ("reference_joint", "reference"),
    "bf16_alone": ("reference_bf16", "reference"),
}
MEMORY_RATIOS = {
    "msl_over_plain_memory": ("ours", "plain"),
    "visible_over_plain_memory": ("visible", "plain"),
    "sequential_over_plain_memory": ("sequential", "plain"),
}


@dataclass
class BenchmarkArguments:
    """What to measure."""

    output: str | None = field(default=None, metadata={"help": "JSON file for the results."})
    quick: bool = field(default=False, metadata={"help": f"Only {', '.join(QUICK)}."})
    networks: list[str] | None = field(default=None, metadata={"help": f"Some of {', '.join(NETWORKS)}."})
    variants: list[str] | None = field(default=None, metadata={"help": f"Some of {', '.join(VARIANTS)}."})
    batch_size: int | None = field(default=None, metadata={"help": "Batch size of every network."})
    rounds: int = field(default=5, metadata={"help": "Times that each variant is measured, in turn."})
    use_cpu: bool = field(default=False, metadata={"help": "Leave an accelerator alone."})
    cpu_threads: int | None = field(default=None, metadata={"help": "Threads; default: all cores."})
    seed: int = field(default=0, metadata={"help": "Seed of weights, images and masks."})
    memory_of: str | None = field(default=None, metadata={"help": "Print the peak memory of one variant and end."})


@dataclass
class Batch:
    """A network and a batch for it."""

    model: MSLForImageClassification
    images: torch.Tensor
    labels: torch.Tensor

    @classmethod
    def make(cls, network: str, arguments: BenchmarkArguments) -> "Batch":
        architecture, side, batch_size = NETWORKS[network]
        device = torch.device("cpu")
        if torch.accelerator.is_available() and not arguments.use_cpu:
            device = torch.accelerator.current_accelerator()
        torch.manual_seed(arguments.seed)
        names = [str(index) for index in range(NUM_LABELS)]
        model = MSLForImageClassification.from_backbone(
            architecture, names, num_heads=NUM_HEADS, csra_lambda=0.5, image_size=side, pretrained=False
        )
        count = arguments.batch_size or batch_size
        images = torch.randn(count, 3, side, side, device=device)
        return cls(model.to(device), images, torch.randint(2, (count, NUM_LABELS), device=device).float())


class FixedMasks:
    """A bank that gives the same masks every time, to compare steps number by number."""

    def __init__(self, keep: torch.Tensor):
        self.keep = keep

    def sample(self, *_) -> torch.Tensor:
        """The masks, (B, 1, H, W) bool."""
        return self.keep


class TrainerStep:
    """A training step of `MSLTrainer` on a fixed batch; the weights are a copy.

    Args:
        batch: Network and data.
        masks: Where masks come from.
        **settings: Of `MSLTrainingArguments`.
    """

    def __init__(self, batch: Batch, masks, **settings):
        self.model = copy.deepcopy(batch.model).train()
        self.inputs = {"pixel_values": batch.images, "labels": batch.labels}
        arguments = MSLTrainingArguments("unused", use_cpu=batch.images.device.type == "cpu", **settings)
        processor = build_processor(None, tuple(batch.images.shape[-2:]))
        self.precision = _autocast(batch.images.device, arguments.bf16)
        AcceleratorState._reset_state()  # it is one for the process, and the variants differ in precision
        self.trainer = MSLTrainer(self.model, arguments, masks=masks, processing_class=processor)
        self.trainer.current_gradient_accumulation_steps = 1  # which `train` would set
        self.optimizer = self.trainer.create_optimizer()

    def backward(self) -> float:
        """The loss; leaves the gradients in place."""
        self.optimizer.zero_grad()
        with self.precision:
            return self.trainer.training_step(self.model, dict(self.inputs)).item()

    def __call__(self) -> None:
        self.backward()
        self.optimizer.step()


class ReferenceStep:
    """The published MSL step in a bare loop: two forwards, float32, contiguous memory, a loop over CSRA heads.

    Args:
        batch: Network and data; the weights are copied.
        masks: Where masks come from.
        channels_last: Memory order of weights and images.
        one_product: All CSRA heads in one matrix product instead of the loop.
        joint: One forward of image and masked image together.
        bf16: bfloat16 autocast.
    """

    def __init__(self, batch: Batch, masks, channels_last=False, one_product=False, joint=False, bf16=False):
        self.masks, self.joint, self.labels = masks, joint, batch.labels
        self.model = copy.deepcopy(batch.model).train()
        if not one_product:
            self.model.head = LoopedCSRA(self.model.head)
        order = torch.channels_last if channels_last else torch.contiguous_format
        self.model.to(memory_format=order)
        self.images = batch.images.contiguous(memory_format=order)
        processor = build_processor(None, tuple(batch.images.shape[-2:]))
        self.statistics = processor.image_mean, processor.image_std
        self.precision = _autocast(batch.images.device, bf16)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-4)

    def backward(self) -> float:
        """The loss; leaves the gradients in place."""
        self.optimizer.zero_grad()
        keep = self.masks.sample(len(self.images), self.images.shape[-2:], self.images.device)
        with self.precision:
            masked = apply_mask(self.images, keep, *self.statistics)
            if self.joint:
                logits, masked_logits = self.model(torch.cat([self.images, masked])).logits.float().chunk(2)
            else:
                logits, masked_logits = self.model(self.images).logits.float(), self.model(masked).logits.float()
        loss = 0.3 * F.binary_cross_entropy_with_logits(logits, self.labels)
        loss = loss + 0.2 * F.binary_cross_entropy_with_logits(masked_logits, self.labels)
        loss = loss + 0.5 * F.mse_loss(logits.sigmoid(), masked_logits.sigmoid())
        loss.backward()
        return loss.item()

    def __call__(self) -> None:
        self.backward()
        self.optimizer.step()


def _autocast(device: torch.device, bf16: bool):
    return torch.autocast(device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()


class LoopedCSRA(nn.Module):
    """The CSRA head as the reference code computes it: a convolution and a softmax for each head, one after the other.

    Args:
        head: Whose weights it takes.
    """

    def __init__(self, head: CSRAHead):
        super().__init__()
        self.csra_lambda, self.temperatures = head.csra_lambda, TEMPERATURES[head.num_heads]
        self.weights = nn.ParameterList([nn.Parameter(weight.detach().clone()) for weight in head.weight])

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, L, D) features -> (B, C) logits."""
        logits = 0.0
        for weight, temperature in zip(self.weights, self.temperatures, strict=True):
            scores = F.conv1d(features.transpose(1, 2), weight.unsqueeze(2)) / weight.norm(dim=1)[:, None]
            if temperature == 99:
                attention = scores.amax(dim=2)
            else:
                attention = (scores * torch.softmax(temperature * scores, dim=2)).sum(dim=2)
            logits = logits + scores.mean(dim=2) + self.csra_lambda * attention
        return logits


def make_step(variant: str, batch: Batch, masks) -> TrainerStep | ReferenceStep:
    """The training step of a variant."""
    if variant in TRAINER:
        return TrainerStep(batch, masks, **TRAINER[variant])
    return ReferenceStep(batch, masks, **REFERENCE[variant])


def compare_steps(batch: Batch) -> dict[str, float]:
    """How far the trainer's step and the published one are apart on the same tensors and masks.

    Returns:
        `loss` and `gradient`: relative difference of the losses, and of all gradients (norm of the difference over
        the norm).
    """
    bank = MaskBank.generate(200, hole_ratio=(0.5, 0.6))
    masks = FixedMasks(bank.sample(len(batch.images), batch.images.shape[-2:], batch.images.device))
    ours, reference = TrainerStep(batch, masks), ReferenceStep(batch, masks)
    losses = ours.backward(), reference.backward()
    looped = torch.stack([weight.grad for weight in reference.model.head.weights])
    pairs = [(ours.model.head.weight.grad, looped)]
    backbone = dict(reference.model.backbone.named_parameters())
    pairs += [(p.grad, backbone[n].grad) for n, p in ours.model.backbone.named_parameters() if p.grad is not None]
    difference = sum((a - b).double().square().sum() for a, b in pairs).sqrt()
    return {
        "loss": abs(losses[0] - losses[1]) / abs(losses[1]),
        "gradient": (difference / sum(b.double().square().sum() for _, b in pairs).sqrt()).item(),
    }


def benchmark(arguments: BenchmarkArguments) -> dict:
    """Measure all variants of all networks, write the JSON file, print a table.

    Returns:
        What the file holds.
    """
    keep_freed_memory()
    threads = set_cpu_threads(arguments.cpu_threads)
    names = arguments.networks or (QUICK if arguments.quick else tuple(NETWORKS))
    unknown = [name for name in (*names, *(arguments.variants or ())) if name not in (*NETWORKS, *VARIANTS)]
    if unknown:
        raise RunError(f"unknown {', '.join(unknown)}; there are {', '.join((*NETWORKS, *VARIANTS))}")
    if arguments.memory_of:
        print(json.dumps(_peak_memory(arguments.memory_of, names[0], arguments)))
        return {}
    if arguments.output is None:
        raise RunError("say where the results go: --output FILE.json")
    report: dict = {"machine": _machine(threads, arguments), "networks": {}, "ratios": {}}
    for name in names:
        batch = Batch.make(name, arguments)
        masks = MaskBank.generate(200, hole_ratio=(0.5, 0.6))
        variants = [v for v in arguments.variants or VARIANTS if _applies(v, batch.model)]
        # With batch normalisation and random weights, gradients in float32 hang on the last digits; float64 shows what
        # the two steps compute.
        exact = Batch(copy.deepcopy(batch.model).double(), batch.images.double(), batch.labels.double())
        same = {"float32": compare_steps(batch), "float64": compare_steps(exact)}
        result: dict = {"batch_size": len(batch.images), "same_numbers": same}
        result["variants"] = _side_by_side(variants, batch, masks, arguments.rounds)
        for variant in variants:
            result["variants"][variant]["peak_memory_mb"] = _memory_in_child(variant, name, arguments)
        result["inference"] = measure_inference(
            batch.model, batch.images.shape[-2:], batch.images.device, len(batch.images)
        )
        report["networks"][name] = result
        report["ratios"][name] = _ratios(result["variants"])
        _print(name, result, report["ratios"][name])
        write_json(Path(arguments.output), report)  # after each network: an interruption loses one
    print(f"\nResults: {arguments.output}")
    return report


def _applies(variant: str, model: MSLForImageClassification) -> bool:
    """Joint forwards need a network without batch statistics, visible patches a plain ViT."""
    if variant == "reference_joint":
        return joint_equals_separate(model)
    return variant != "visible" or model.can_skip_removed_patches


def _side_by_side(variants: list[str], batch: Batch, masks, rounds: int) -> dict[str, dict]:
    """Images/s of each variant, measured in turn, round by round."""
    device, speeds = batch.images.device, {variant: [] for variant in variants}
    steps = {variant: make_step(variant, batch, masks) for variant in variants}
    for step in steps.values():
        step()
    for _ in range(rounds):
        for variant, step in steps.items():
            durations = time_calls(step, device, min_calls=1, seconds=0.5, warm_up=0)
            speeds[variant].append(len(batch.images) / statistics.median(durations))
    return {
        variant: {
            "images_per_second": statistics.median(values),
            "spread": [min(values), max(values)],
            "rounds": values,
        }
        for variant, values in speeds.items()
    }


def _ratios(variants: dict[str, dict]) -> dict[str, dict]:
    """Median and spread, over the rounds, of the ratio within a round."""
    ratios = {}
    for name, (over, under) in RATIOS.items():
        if over in variants and under in variants:
            pairs = zip(variants[over]["rounds"], variants[under]["rounds"], strict=True)
            values = sorted(a / b for a, b in pairs)
            ratios[name] = {"median": statistics.median(values), "spread": [values[0], values[-1]]}
    for name, (over, under) in MEMORY_RATIOS.items():
        if over in variants and under in variants:
            ratios[name] = {"median": variants[over]["peak_memory_mb"] / variants[under]["peak_memory_mb"]}
    return ratios


def _memory_in_child(variant: str, network: str, arguments: BenchmarkArguments) -> float:
    command = [
        sys.executable,
        sys.argv[0],
        "--memory_of",
        variant,
        "--networks",
        network,
        "--seed",
        str(arguments.seed),
    ]
    for flag in ("batch_size", "cpu_threads"):
        if getattr(arguments, flag) is not None:
            command += [f"--{flag}", str(getattr(arguments, flag))]
    done = subprocess.run([*command, "--use_cpu", str(arguments.use_cpu)], capture_output=True, text=True)
    if done.returncode:
        raise RunError(f"measuring the memory of {variant} on {network} failed: {done.stderr[-1000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _peak_memory(variant: str, network: str, arguments: BenchmarkArguments) -> float:
    """MB that the network, its gradients, optimizer state and activations take, beyond the loaded libraries."""
    masks = MaskBank.generate(200, hole_ratio=(0.5, 0.6))
    before = _process_memory("VmRSS")
    batch = Batch.make(network, arguments)
    step = make_step(variant, batch, masks)
    for _ in range(3):
        step()
    if batch.images.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return _process_memory("VmHWM") - before


def _process_memory(name: str) -> float:
    """MB: `VmRSS` now, `VmHWM` at its peak. Unlike getrusage it knows nothing of the parent process."""
    status = Path("/proc/self/status")
    if not status.is_file():
        raise RunError("memory is read from /proc/self/status, which only Linux has")
    (line,) = (line for line in status.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def _machine(threads: int, arguments: BenchmarkArguments) -> dict:
    on_gpu = torch.cuda.is_available() and not arguments.use_cpu
    return {
        "device": torch.cuda.get_device_name() if on_gpu else f"{threads} CPU threads",
        "processor": platform.machine(),
        "torch": torch.__version__,
    }


def _print(name: str, result: dict, ratios: dict) -> None:
    print(f"\n{name}, batch {result['batch_size']}; trainer's and published step apart by "
          "{loss:.1e} (loss), {gradient:.1e} (gradient)".format(**result["same_numbers"]["float64"]))  # fmt: skip
    print(f"{'variant':<26}{'images/s':>10}{'least':>8}{'most':>8}{'MB':>8}")
    for variant, row in result["variants"].items():
        low, high = row["spread"]
        print(f"{variant:<26}{row['images_per_second']:>10.1f}{low:>8.1f}{high:>8.1f}{row['peak_memory_mb']:>8.0f}")
    inference = result["inference"]
    print(
        f"{'inference':<26}{inference['images_per_second']:>10.1f}   {inference['latency_ms']:.1f} ms an image alone"
    )
    for ratio, values in ratios.items():
        spread = "".join(f"{value:>8.2f}" for value in values.get("spread", ()))
        print(f"{ratio:<28}{values['median']:>8.2f}{spread}")
