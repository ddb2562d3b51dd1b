"""The training steps that the benchmark compares: the trainer's own, and the published one in a bare loop."""

import contextlib
import copy
from dataclasses import dataclass

import torch
from accelerate.state import AcceleratorState
from torch import nn
from torch.nn import functional as F

from ...data.transforms import build_processor
from ...masks import MaskBank, apply_mask
from ...model import MSLForImageClassification
from ...model.heads_msl import TEMPERATURES, CSRAHead
from ...model.modeling_msl import GROUPS, LENGTHS
from ...training import MSLTrainer, MSLTrainingArguments
from ...training.trainer import joint_equals_separate

# Name -> timm architecture, side of the input in pixels, batch size that a CPU bears.
NETWORKS = {
    "lite0_224": ("tf_efficientnet_lite0", 224, 16),
    "resnet50_224": ("resnet50", 224, 8),
    "vit_small_224": ("vit_small_patch16_224", 224, 8),
    "resnet50_448": ("resnet50", 448, 4),
    "resnet101_448": ("resnet101", 448, 4),
    "vit_base_384": ("vit_base_patch16_384", 384, 2),
    "vit_base_448": ("vit_base_patch16_384", 448, 2),
    "lite0_160": ("tf_efficientnet_lite0", 160, 16),  # as the ablations have them
    "deit_tiny_160": ("deit_tiny_patch16_224", 160, 16),
}
NUM_LABELS, NUM_HEADS = 80, 4  # as on COCO

# What the published step computes: the paper's weights, batch statistics.
PUBLISHED = {"loss_weights": [0.3, 0.2, 0.5], "freeze_batch_norm": False}
# The trainer's step: how it is set up. The published step: which improvements are switched on alone.
TRAINER = {
    "plain": {"loss_weights": [1.0, 0.0, 0.0]},
    "ours": {},
    "plain_bf16": {"loss_weights": [1.0, 0.0, 0.0], "bf16": True},
    "ours_bf16": {"bf16": True},
    "half": {"masked_share": 0.5},
    "visible": {"masked_forward": "visible"},
    "sequential": {"masked_forward": "sequential"},
    "checkpointed": {"gradient_checkpointing": True},
    "plain_frozen": {"loss_weights": [1.0, 0.0, 0.0], "freeze_backbone": True, "freeze_batch_norm": None},
    "frozen": {"freeze_backbone": True, "freeze_batch_norm": None},
    "plain_low_rank": {"loss_weights": [1.0, 0.0, 0.0], "lora_rank": 8, "freeze_batch_norm": None},
    "low_rank": {"lora_rank": 8, "freeze_batch_norm": None},
    "ours_compiled": {"torch_compile": True},
    "ours_bf16_compiled": {"bf16": True, "torch_compile": True},
}
REFERENCE = {
    "reference": {},
    "reference_channels_last": {"channels_last": True},
    "reference_one_product": {"one_product": True},
    "reference_joint": {"joint": True},
    "reference_bf16": {"bf16": True},
    "bare": {"channels_last": True, "one_product": True, "joint": None},  # ours without the trainer around it
}
VARIANTS = (*TRAINER, *REFERENCE)


@dataclass
class Batch:
    """A network and a batch for it."""

    model: MSLForImageClassification
    images: torch.Tensor
    labels: torch.Tensor

    @classmethod
    def make(
        cls,
        network: str,
        use_cpu: bool,
        seed: int,
        batch_size: int | None = None,
        image_size: int | None = None,
        num_labels: int = NUM_LABELS,
        num_heads: int = NUM_HEADS,
    ) -> "Batch":
        """One of `NETWORKS` with random weights, and random images; None takes the network's size and batch."""
        architecture, side, default_size = NETWORKS[network]
        side, count = image_size or side, batch_size or default_size
        device = torch.device("cpu")
        if torch.accelerator.is_available() and not use_cpu:
            device = torch.accelerator.current_accelerator()
        torch.manual_seed(seed)
        names = [str(index) for index in range(num_labels)]
        model = MSLForImageClassification.from_backbone(
            architecture, names, num_heads=num_heads, csra_lambda=0.5, image_size=side, pretrained=False
        )
        images = torch.randn(count, 3, side, side, device=device)
        return cls(model.to(device), images, torch.randint(2, (count, num_labels), device=device).float())


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
        settings = {**PUBLISHED, **settings}
        arguments = MSLTrainingArguments("unused", use_cpu=batch.images.device.type == "cpu", **settings)
        processor = build_processor(None, tuple(batch.images.shape[-2:]))
        self.precision = _autocast(batch.images.device, arguments.bf16)
        AcceleratorState._reset_state()  # it is one for the process, and the variants differ in precision
        self.trainer = MSLTrainer(self.model, arguments, masks=masks, processing_class=processor)
        self.trainer.current_gradient_accumulation_steps = 1  # which `train` would set
        self.model = self.trainer.model  # with adapters, where there are some
        self.optimizer = self.trainer.create_optimizer()
        if arguments.gradient_checkpointing:  # as `Trainer.train` does
            self.model.gradient_checkpointing_enable()
        if arguments.torch_compile:
            self.model = torch.compile(self.model)

    def backward(self) -> torch.Tensor:
        """The loss; leaves the gradients in place."""
        self.optimizer.zero_grad()
        with self.precision:
            return self.trainer.training_step(self.model, dict(self.inputs))

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
        joint: One forward of image and masked image together; None where that is the same, as the trainer decides.
        bf16: bfloat16 autocast.
    """

    def __init__(self, batch: Batch, masks, channels_last=False, one_product=False, joint=False, bf16=False):
        self.masks, self.labels = masks, batch.labels
        self.model = copy.deepcopy(batch.model).train()
        self.joint = joint_equals_separate(self.model) if joint is None else joint
        if not one_product:
            self.model.head = LoopedCSRA(self.model.head)
        order = torch.channels_last if channels_last else torch.contiguous_format
        self.model.to(memory_format=order)
        self.images = batch.images.contiguous(memory_format=order)
        processor = build_processor(None, tuple(batch.images.shape[-2:]))
        self.statistics = processor.image_mean, processor.image_std
        self.precision = _autocast(batch.images.device, bf16)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-4)

    def backward(self) -> torch.Tensor:
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
        return loss.detach()

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


def share_of_dropped_patches(patch_size: int, image_size: int, count: int, seed: int) -> dict[str, float]:
    """What share of the patches a masked branch on visible patches leaves out, in a batch of `count` images.

    Returns:
        `removed`: patches that masks with hole ratio 0.5 to 0.6 remove wholly; `padded`: those that can be dropped
        where each image is filled up to the most visible patches of the batch; `grouped`: to those of its group of
        images with similar numbers, and there to a 32nd of all patches, as the model does.
    """
    bank, shares = MaskBank.generate(200, hole_ratio=(0.5, 0.6), seed=seed), []
    for number in range(50):
        keep = bank.sample(count, image_size, generator=torch.Generator().manual_seed(seed + number))
        visible = F.max_pool2d(keep.float(), patch_size).flatten(1)
        step, counts = -(-visible.shape[1] // LENGTHS), visible.sum(dim=1).sort().values
        filled = torch.cat([(group.max() / step).ceil().mul(step).expand(len(group))
                            for group in counts.tensor_split(min(GROUPS, count))])  # fmt: skip
        shares.append(1 - torch.stack([counts.mean(), counts.max(), filled.mean()]) / visible.shape[1])
    return dict(zip(("removed", "padded", "grouped"), torch.stack(shares).mean(dim=0).tolist(), strict=True))


def compare_steps(batch: Batch) -> dict[str, float]:
    """How far the trainer's step and the published one are apart on the same tensors and masks.

    Returns:
        `loss` and `gradient`: relative difference of the losses, and of all gradients (norm of the difference over
        the norm).
    """
    bank = MaskBank.generate(200, hole_ratio=(0.5, 0.6))
    masks = FixedMasks(bank.sample(len(batch.images), batch.images.shape[-2:], batch.images.device))
    ours, reference = TrainerStep(batch, masks), ReferenceStep(batch, masks)
    losses = ours.backward().item(), reference.backward().item()
    looped = torch.stack([weight.grad for weight in reference.model.head.weights])
    pairs = [(ours.model.head.weight.grad, looped)]
    backbone = dict(reference.model.backbone.named_parameters())
    pairs += [(p.grad, backbone[n].grad) for n, p in ours.model.backbone.named_parameters() if p.grad is not None]
    difference = sum((a - b).double().square().sum() for a, b in pairs).sqrt()
    return {
        "loss": abs(losses[0] - losses[1]) / abs(losses[1]),
        "gradient": (difference / sum(b.double().square().sum() for _, b in pairs).sqrt()).item(),
    }
