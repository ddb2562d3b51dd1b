"""Arguments of the trainer."""

from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from ..cores import default_workers
from ..masks import FILLS

MASK_FILL_HELP = "What is seen where pixels are removed; zero is 0 after normalisation, mixed all but zero."
SETTINGS = (
    "seed", "learning_rate", "weight_decay", "decay_norm_and_bias", "optim", "optim_args", "lr_scheduler_type",
    "lr_step_epochs", "lr_warmup_epochs", "warmup_steps", "num_train_epochs", "max_steps",
    "per_device_train_batch_size", "gradient_accumulation_steps", "max_grad_norm", "bf16", "fp16", "loss_weights",
    "classification_loss", "asl_gamma_neg", "asl_gamma_pos", "asl_clip", "head_lr_multiplier", "mask_fill",
    "mask_keep_value", "masked_forward", "masked_share", "mask_augmentation", "lora_rank", "freeze_backbone",
    "freeze_stages", "layer_decay", "cache_features", "cached_views", "feature_dtype", "ema_decay",
    "freeze_batch_norm", "sync_batch_norm",
)  # fmt: skip
LEAST = {
    "per_device_train_batch_size": 1, "per_device_eval_batch_size": 1, "gradient_accumulation_steps": 1,
    "dataloader_num_workers": 0, "lr_step_epochs": 1, "lr_warmup_epochs": 0, "asl_gamma_neg": 0, "asl_gamma_pos": 0,
    "asl_clip": 0, "lora_rank": 0, "freeze_stages": 0,
    "cached_views": 1,
}  # fmt: skip
# Settings of `TrainingArguments` that loss and data of this trainer do not know: what they may be, and why not others.
REFUSED = {
    "label_smoothing_factor": ((0,), "it smooths one label out of several; multi-hot targets may lie within [0, 1]"),
    "label_names": ((["labels"],), "the targets are the column 'labels'"),
    "neftune_noise_alpha": ((), "it adds noise to embeddings of words"),
    "use_liger_kernel": ((False,), "it speeds up language models alone"),
    "train_sampling_strategy": (("random", "sequential"), "images have no length to group them by"),
    "remove_unused_columns": ((False,), "it would take away columns that collators read, such as 'ignored'"),
    "include_num_input_tokens_seen": ((False, "no"), "images have no tokens to count"),
}


@dataclass
class MSLTrainingArguments(TrainingArguments):
    """`TrainingArguments` with what Masked Supervised Learning adds.

    The defaults are for fine-tuning a pretrained network on one's own photographs, and follow what was measured here
    (`docs/concepts/defaults.md` has each beside the paper's, which are in the configuration `paper`): `loss_weights`
    0.6 0.4 0, frozen statistics of batch normalisation, a batch of 8, which with its masked copy is a forward of 16.
    Those of `TrainingArguments` that differ:

    - `learning_rate` 3e-4 instead of 5e-5, with ten times that for the head; `weight_decay` 0.02 instead of 0;
    - `lr_scheduler_type` "cosine" instead of "linear", `warmup_steps` 0.05 (a share of all steps) instead of 0;
    - `num_train_epochs` 20 instead of 3; `per_device_eval_batch_size` 32 instead of 8;
    - `max_grad_norm` 0 (no clipping) instead of 1;
    - `dataloader_num_workers` and `dataloader_persistent_workers` None instead of 0 and False: with an accelerator
      the usable cores of the process, at most 8, which stay from epoch to epoch; on a CPU none;
    - `dataloader_drop_last` True instead of False; unlike in `Trainer` it concerns training only, so that evaluation
      scores every image;
    - `remove_unused_columns` False instead of True, because the model's columns are made when an image is read;
    - `logging_steps` 50 instead of 500; `save_strategy` "epoch" instead of "steps"; `save_total_limit` 2 instead of
      unlimited;
    - `ddp_find_unused_parameters` False instead of a search in every step: `MSLForImageClassification` freezes what
      its head never reads;
    - `logging_nan_inf_filter` False instead of True: a non-finite loss stops the run and is never averaged away.

    Args:
        model_init_kwargs: How `MSLTrainer` makes a model of a backbone's name: `head`, `image_size`, `csra_lambda` and
            others of `MSLForImageClassification.from_backbone`. Commands have flags of these names instead.
        loss_weights: w1, w2, w3 of recognition, masked and consistency term (Table 7). `1 0 0` is plain training, for
            which no masked forward is run.
        classification_loss: `"bce"`, `"asl"` (asymmetric loss), `"focal"`, or, where labels are missing among the
            negatives, `"ll_r"` (large-loss rejection) or `"splc"` (self-paced correction).
        asl_gamma_neg: Focusing exponent of absent labels in the asymmetric loss.
        asl_gamma_pos: Focusing exponent of present labels in it.
        asl_clip: Probability that absent labels may have without cost in it.
        head_lr_multiplier: Learning rate of the head relative to `learning_rate`.
        decay_norm_and_bias: Apply `weight_decay` to normalisation weights and biases too, as the paper does.
        mask_fill: What the masked branch, or mask augmentation, sees where pixels are removed: `"black"` (the paper);
            `"zero"`, 0 in normalised space, which needs no image processor; `"noise"`; `"image"`, another image of the
            batch of all processes, whose labels count for nothing; or `"mixed"`: for each image black, noise or
            another image. See `apply_mask`.
        mask_keep_value: Factor on kept pixels; 225/255 = 0.882 is the unbinarised mask of Table 5.
        masked_forward: `"separate"` runs image and masked image one after the other as the paper does, `"joint"` as
            one batch, which is faster but not the same with batch normalisation or dropout. `"auto"` takes `"joint"`
            exactly where the two agree. `"visible"` runs the masked branch of a plain ViT on those patches alone that
            are not wholly removed, which is faster still and not the same: removed patches do not take part.
            `"sequential"` gives the gradients of `"separate"` with the memory of plain training, by a third forward.
        masked_share: Share of the batch, in (0, 1], that the masked branch sees: as many images, at least one, drawn
            anew in every step.
        mask_augmentation: Instead of a masked branch (with `loss_weights` 1 0 0): the probability with which a
            training image is masked in the one forward.
        lora_rank: Freeze the backbone and train low-rank adapters (LoRA) of this rank on its linear layers and
            convolutions, and the head; needs PEFT. 0 trains everything.
        freeze_backbone: Train the head alone: the backbone runs as in inference, without dropout and gradients.
        freeze_stages: Do so with the stem and the first stages of the backbone (of ViTs: layers). 0 trains all.
        cache_features: With `freeze_backbone`: compute the features that the head reads once, and train on them. Each
            image is cached in `cached_views` views, whole and, where the loss has a masked branch, masked; epoch e
            trains on view e modulo their number. The evaluation during training is cached, too.
        cached_views: Random crops of each training image that are cached.
        feature_dtype: How features are stored: `"float16"`, `"bfloat16"` or `"float32"`.
        feature_dir: Where they lie; None is the folder `features` in the output folder. Runs whose heads, losses,
            rates and epochs alone differ can share one.
        layer_decay: Learning rate of each layer of the backbone, as a share of that of the layer above it, in (0, 1];
            ViTs are often fine-tuned with 0.65 to 0.9. 1 is one rate for all.
        ema_decay: Evaluate and keep an exponential moving average of the weights, with this factor on the average so
            far (0.99 or so); 0 keeps the weights of the last step.
        freeze_batch_norm: Batch normalisation computes with the running statistics that the weights were pretrained
            with, in training as in inference, and leaves them as they are; its scale and shift are trained. None does
            so wherever there are such statistics: not in layers of random weights, whose running mean is 0 and whose
            variance is 1, and not beside `sync_batch_norm`.
        sync_batch_norm: Batch statistics over the batches of all processes instead of each its own. GPUs only.
        lr_step_epochs: Set to use the paper's schedule in place of `lr_scheduler_type`: linear warm-up over
            `lr_warmup_epochs`, then a factor 0.1 every so many epochs (4 on VOC, 5 on COCO and WIDER).
        lr_warmup_epochs: Warm-up of the paper's schedule.
        channels_last: Keep convolutional weights and images in channels-last memory order, which is faster.
    """

    learning_rate: float = field(default=3e-4, metadata={"help": "Peak learning rate of the backbone."})
    weight_decay: float = field(default=0.02, metadata={"help": "Weight decay."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "A schedule of transformers."})
    warmup_steps: float = field(default=0.05, metadata={"help": "Warm-up steps, or below 1 their share of all steps."})
    num_train_epochs: float = field(default=20.0, metadata={"help": "Epochs."})
    per_device_train_batch_size: int = field(default=8, metadata={"help": "Training batch of one process."})
    per_device_eval_batch_size: int = field(default=32, metadata={"help": "Evaluation batch of one process."})
    max_grad_norm: float = field(default=0.0, metadata={"help": "Gradient clipping; 0 is none."})
    dataloader_drop_last: bool = field(default=True, metadata={"help": "Drop the last incomplete training batch."})
    dataloader_num_workers: int | None = field(
        default=None,
        metadata={"help": "Processes that read images; default: with an accelerator the usable cores, at most 8."},
    )
    dataloader_persistent_workers: bool | None = field(
        default=None, metadata={"help": "Keep these processes from one epoch to the next; default: yes."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Leave False: images are read lazily."})
    logging_steps: float = field(default=50, metadata={"help": "Steps between two log lines."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save checkpoints: no, epoch, steps."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints to keep."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Search for parameters without gradient in every step of several processes."}
    )
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Leave False: non-finite losses stop."})

    model_init_kwargs: dict | str | None = field(
        default=None, metadata={"help": "For MSLTrainer in Python; here there are --head, --image_size, ..."}
    )
    loss_weights: list[float] = field(
        default_factory=lambda: [0.6, 0.4, 0.0],
        metadata={"help": "Weights of recognition, masked and consistency term; 1 0 0 is plain training."},
    )
    classification_loss: str = field(
        default="bce", metadata={"help": "Classification loss.", "choices": ["bce", "asl", "focal", "ll_r", "splc"]}
    )
    asl_gamma_neg: float = field(default=4.0, metadata={"help": "ASL: focusing exponent of absent labels."})
    asl_gamma_pos: float = field(default=0.0, metadata={"help": "ASL: focusing exponent of present labels."})
    asl_clip: float = field(default=0.05, metadata={"help": "ASL: probability that costs an absent label nothing."})
    head_lr_multiplier: float = field(default=10.0, metadata={"help": "Head learning rate / learning rate."})
    decay_norm_and_bias: bool = field(default=False, metadata={"help": "Weight decay on every parameter (paper)."})
    mask_fill: str = field(default="black", metadata={"help": MASK_FILL_HELP, "choices": list(FILLS)})
    mask_keep_value: float = field(default=1.0, metadata={"help": "Factor on kept pixels (Table 5: 0.882)."})
    masked_forward: str = field(
        default="auto",
        metadata={
            "help": "How the masked branch runs.",
            "choices": ["auto", "joint", "separate", "visible", "sequential"],
        },
    )
    masked_share: float = field(default=1.0, metadata={"help": "Share of the batch that the masked branch sees."})
    mask_augmentation: float = field(
        default=0.0, metadata={"help": "Without masked branch (weights 1 0 0): share of training images to mask."}
    )
    lora_rank: int = field(
        default=0, metadata={"help": "Freeze the backbone but for low-rank adapters of this rank; 0 trains all of it."}
    )
    freeze_backbone: bool = field(default=False, metadata={"help": "Train the head alone, on the backbone as it is."})
    freeze_stages: int = field(
        default=0, metadata={"help": "Freeze the stem and so many first stages of the backbone (of ViTs: layers)."}
    )
    cache_features: bool = field(
        default=False,
        metadata={"help": "With --freeze_backbone: compute the backbone's features once, and train the head on them."},
    )
    cached_views: int = field(default=4, metadata={"help": "Random crops of each training image that are cached."})
    feature_dtype: str = field(
        default="float16",
        metadata={"help": "How features are stored.", "choices": ["float16", "bfloat16", "float32"]},
    )
    feature_dir: str | None = field(
        default=None, metadata={"help": "Where features lie, for several runs; default: OUTPUT_DIR/features."}
    )
    layer_decay: float = field(
        default=1.0, metadata={"help": "Learning rate of each layer, as a share of that of the layer above it."}
    )
    ema_decay: float = field(
        default=0.0, metadata={"help": "Moving average of the weights: the factor on the average; 0 is none."}
    )
    freeze_batch_norm: bool | None = field(
        default=None,
        metadata={
            "help": "Keep the statistics of batch normalisation that pretraining has left; default: wherever there "
            "are such."
        },
    )
    sync_batch_norm: bool = field(default=False, metadata={"help": "Batch statistics over all processes (GPUs)."})
    lr_step_epochs: int | None = field(default=None, metadata={"help": "Use the paper's warm-up + step schedule."})
    lr_warmup_epochs: float = field(default=2.0, metadata={"help": "Warm-up epochs of the paper's schedule."})
    channels_last: bool = field(default=True, metadata={"help": "Channels-last memory order."})

    def __post_init__(self):
        self.check()
        if self.dataloader_num_workers is None:
            self.dataloader_num_workers = default_workers(torch.accelerator.is_available() and not self.use_cpu)
        if self.dataloader_persistent_workers is None:
            self.dataloader_persistent_workers = self.dataloader_num_workers > 0
        super().__post_init__()

    def check(self) -> None:
        """Refuse settings that make no sense, or would have no effect; for those that were changed since, too.

        Raises:
            ValueError: naming the setting.
        """
        for name in ("classification_loss", "mask_fill", "masked_forward", "feature_dtype"):
            choices = self.__dataclass_fields__[name].metadata["choices"]
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if not self.asl_clip < 1:
            raise ValueError(f"asl_clip is a probability below 1, got {self.asl_clip}")
        if len(self.loss_weights) != 3:
            raise ValueError(f"loss_weights takes three numbers, got {self.loss_weights}")
        if not 0 <= self.mask_augmentation <= 1:
            raise ValueError(f"mask_augmentation is a probability in [0, 1], got {self.mask_augmentation}")
        if not 0 < self.masked_share <= 1:
            raise ValueError(f"masked_share must lie in (0, 1], got {self.masked_share}")
        if self.masked_share < 1 and not any(self.loss_weights[1:]):
            raise ValueError(f"masked_share is of the masked branch, which loss_weights {self.loss_weights} leave out")
        if self.mask_augmentation and any(self.loss_weights[1:]):
            raise ValueError(f"mask_augmentation replaces the masked branch: set loss_weights to 1 0 0, "
                             f"got {self.loss_weights}")  # fmt: skip
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must lie in (0, 1], got {self.layer_decay}")
        self._check_freezing()
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), got {self.ema_decay}")
        if self.ema_decay and self.load_best_model_at_end:
            raise ValueError("ema_decay and load_best_model_at_end exclude each other: checkpoints hold the weights "
                             "that training goes on from, not their average")  # fmt: skip
        if self.freeze_batch_norm and self.sync_batch_norm:
            raise ValueError("freeze_batch_norm and sync_batch_norm exclude each other: frozen statistics are "
                             "the same in all processes")  # fmt: skip
        for name, (allowed, reason) in REFUSED.items():
            value = getattr(self, name, None)
            if value is not None and value not in allowed:
                raise ValueError(f"{name}={value!r} would have no effect here, or a wrong one: {reason}")

    def _check_freezing(self) -> None:
        frozen = {"freeze_backbone": self.freeze_backbone, "lora_rank": self.lora_rank > 0}
        partly = {"freeze_stages": self.freeze_stages > 0, "layer_decay": self.layer_decay != 1}
        given = [name for name, is_set in {**frozen, **partly}.items() if is_set]
        if len(given) > 1 and any(frozen.values()):
            raise ValueError(f"{given[0]} freezes the backbone, so that {given[1]} would have no effect, or another")
        if self.cache_features and not self.freeze_backbone:
            raise ValueError(
                "cache_features keeps what a backbone gives that does not change: set freeze_backbone, too"
            )
        if self.cache_features and self.masked_forward in ("visible", "sequential"):
            raise ValueError(f"masked_forward={self.masked_forward!r} says how the backbone runs, and with "
                             "cache_features it runs once, on all patches; leave it out")  # fmt: skip
        if self.freeze_backbone and self.freeze_batch_norm is False:
            raise ValueError("freeze_backbone keeps the statistics of batch normalisation, too: leave out "
                             "freeze_batch_norm=False")  # fmt: skip

    def what_makes_a_run(self) -> dict:
        """The settings that decide what comes out, as plain values; not paths, logging or hardware."""
        values = self.to_dict()
        if values["freeze_batch_norm"] is None:
            values["freeze_batch_norm"] = "where learnt"
        return {name: values[name] for name in SETTINGS}
