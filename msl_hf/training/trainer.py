"""The trainer: `compute_loss` runs the recognition branch and the masked branch."""

import contextlib
import importlib.metadata
import itertools
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from filelock import FileLock
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from safetensors import safe_open
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint, has_length
from transformers.utils import ADAPTER_SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_NAME, logging

from ..data.schema import MultiLabelCollator, class_names_of
from ..data.transforms import ImageDataset, StreamedImages, normalized
from ..evaluation.metrics import metrics_from_logits
from ..hub.card import METRICS, is_our_card, write_card
from ..masks import MaskBank, apply_mask, counter_generator
from ..model import MSLForImageClassification
from ..model.views_msl import tile_logits
from .adapters import (
    add_adapters,
    freeze_namesakes,
    has_adapters,
    is_head_parameter,
    low_rank_config,
    merged,
)
from .arguments import MSLTrainingArguments
from .averaging import WeightAverage
from .callbacks import SetEpoch
from .features import (
    FeatureFiles,
    View,
    ViewDataset,
    batches_of,
    check_space,
    open_files,
)
from .finite import FiniteCheck, check_finite_weights, check_targets
from .layers import freeze_backbone, frozen_parts, layer_depths
from .losses import MSLLoss, make_classification_loss
from .parts import choose_ignored_as, classes_of, has_images, in_schema, make_images, make_model, make_processor
from .precision import run_depthwise_in_float32
from .schedule import warmup_step_schedule

logger = logging.get_logger(__name__)

TIMINGS = ("runtime", "samples_per_second", "steps_per_second")  # which Trainer logs beside the metrics


class MSLTrainer(Trainer):
    """`Trainer` for Masked Supervised Learning. Evaluation and prediction see whole images only.

    Three lines are enough:

        trainer = MSLTrainer("timm/resnet50.a1_in1k", train_dataset=data["train"], eval_dataset=data["validation"])
        trainer.train()
        trainer.push_to_hub("me/photos")

    where `data` is what `msl_hf.data.load_images` or `datasets.load_dataset` gives: an image column, and labels
    written in any of the ways that `load_images` reads. Model, image processor, augmentation, collators and metrics
    are then made. Each of them can be given instead: any data set and collator work that give `pixel_values`
    (B, 3, H, W), normalised, or in uint8, which are normalised on the device, and multi-hot float `labels` (B, C),
    where -100 marks an ignored entry.

    All randomness is a function of (seed, step, micro-step, rank): nothing needs saving, and a resumed run equals an
    uninterrupted one.

    Args:
        model: Hub id or folder of a pretrained backbone, or of an `MSLForImageClassification` to go on from, whose
            head is replaced where the data have other classes (which is printed); a backbone that `AutoModel` loaded;
            an `MSLForImageClassification`; or any model whose parameters outside `head.` form the backbone and whose
            output has `logits`. `args.model_init_kwargs` say how one is made: `head`, `image_size`, ...
        args: `MSLTrainingArguments`; None takes their defaults, the folder `outputs`, and an evaluation after every
            epoch where there is an `eval_dataset`.
        masks: Bank of the masked branch; None generates 1,000 irregular masks with hole ratio 0.5 to 0.6.
        processing_class: Image processor; its mean and standard deviation say what black is. Saved with the model.
            None takes that of the model's name, where batches are yet to be made.
        train_dataset: Images and labels (see above), which are cropped and flipped at random, or batches to be.
        eval_dataset: The same, whole and squashed to the model's size; or several by name.
        data_collator: None makes multi-hot targets of the labels, in training and evaluation: unknown labels are left
            out of the loss where the data have such (which is printed), and of every metric.
        eval_data_collator: Collator of evaluation and prediction where it differs from `data_collator` (evaluation
            leaves ignored labels out, training usually counts them as negative).
        compute_metrics: None computes `multilabel_metrics` of images and labels; it needs scikit-learn.
        pos_weight: (C,) factors on the positive term of the binary cross-entropy; `balanced_pos_weight` counts them.
        peft_config: Adapters of PEFT for the backbone, such as a `peft.LoraConfig`; `args.lora_rank` makes one. The
            rest of the backbone is frozen, statistics of batch normalisation included, and the head is trained whole.
            Checkpoints hold the adapters, `save_model` writes the model with the adapters merged into its weights.
        **kwargs: As for `Trainer`. `compute_loss_func` is refused: the loss is what `args` say.

    Raises:
        ValueError: for what cannot be trained so, and settings that would have no effect.
    """

    # The loss is a mean over the micro-batch: Trainer has to divide it by the accumulation steps.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: str | os.PathLike | nn.Module | None = None,
        args: MSLTrainingArguments | None = None,
        masks: MaskBank | None = None,
        processing_class: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        data_collator: Callable | None = None,
        eval_data_collator: Callable | None = None,
        pos_weight: Sequence[float] | None = None,
        peft_config: Any = None,
        compute_metrics: Callable | None = None,
        **kwargs,
    ):
        if kwargs.get("compute_loss_func") is not None:
            raise ValueError("compute_loss_func would never be called: the loss is classification_loss and "
                             "loss_weights of the arguments; override compute_loss for another")  # fmt: skip
        if args is None:
            args = MSLTrainingArguments("outputs", eval_strategy="no" if eval_dataset is None else "epoch")
        evaluated = eval_dataset if isinstance(eval_dataset, Mapping) else {"eval_dataset": eval_dataset}
        given = {"train_dataset": train_dataset, **evaluated}
        own_classes = classes_of(model) if isinstance(model, MSLForImageClassification) else None
        images = {name: dataset for name, dataset in given.items() if has_images(dataset)}
        images = in_schema(images, otherwise=own_classes)
        self.class_names = class_names_of(next(iter(images.values()))) if images else None
        if model is not None:
            source = model
            model = make_model(model, self.class_names, args.seed, **(args.model_init_kwargs or {}))
            is_made = model is not source
            if processing_class is None and (images or is_made):
                is_name = isinstance(source, str | os.PathLike)
                name = source if is_name else getattr(source, "name_or_path", None) if is_made else None
                processing_class = make_processor(model, name or None)
        if images:
            if processing_class is None:
                raise ValueError("model_init says nothing of how images are normalised: pass processing_class, too")
            if data_collator is None:
                count, train = len(self.class_names), images.get("train_dataset")
                ignored_as = "negative" if train is None else choose_ignored_as(None, train, args.classification_loss)
                data_collator = MultiLabelCollator(count, ignored_as)
                eval_data_collator = eval_data_collator or MultiLabelCollator(count, "ignore")
            compute_metrics = compute_metrics or metrics_from_logits
            made = {
                name: make_images(dataset, processing_class, name == "train_dataset", args.seed)
                for name, dataset in images.items()
            }
            train_dataset = made.get("train_dataset", train_dataset)
            evaluated = {name: made.get(name, dataset) for name, dataset in evaluated.items()}
            eval_dataset = evaluated if isinstance(eval_dataset, Mapping) else evaluated["eval_dataset"]
        self.masks, self.pos_weight, self.peft_config = masks, pos_weight, peft_config
        self.image_mean = getattr(processing_class, "image_mean", None)
        self.image_std = getattr(processing_class, "image_std", None)
        self._cached = None
        self.args, self._loss_settings, self._own_callbacks, self._looked_at = args, None, [], None
        if (peft_config is not None or args.lora_rank) and kwargs.get("optimizers", (None, None))[0] is not None:
            raise ValueError("an optimizer that is given knows nothing of the adapters, which are made after it; "
                             "pass optimizer_cls_and_kwargs instead")  # fmt: skip
        self._set_loss()
        if model is not None:
            model = self._with_adapters(own_names(model))
        super().__init__(
            model=model,
            args=args,
            processing_class=processing_class,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=data_collator,
            compute_metrics=compute_metrics,
            **kwargs,
        )
        self.model_accepts_loss_kwargs = False  # what `loss_is_scaled_for_ga` says, in older transformers
        self.label_names = ["labels"]  # of networks, too, whose forward does not take them
        self.eval_data_collator = eval_data_collator or self.data_collator
        self._bind()

    def _set_loss(self) -> None:
        """The loss and the masks that the arguments ask for."""
        args = self.args
        asl = (args.asl_gamma_neg, args.asl_gamma_pos, args.asl_clip)
        settings = (tuple(args.loss_weights), args.classification_loss, *asl)
        if settings != self._loss_settings:
            self._loss_settings = settings
            classification_loss = make_classification_loss(args.classification_loss, self.pos_weight, *asl)
            self.loss = MSLLoss(args.loss_weights, classification_loss)
        if self.loss.needs_masked_branch or args.mask_augmentation:
            needs_statistics = args.mask_fill not in ("zero", "image") or args.mask_keep_value != 1.0
            if needs_statistics and (self.image_mean is None or self.image_std is None):
                raise ValueError("masking needs the image processor's mean and std to know what black is: pass it as "
                                 "processing_class, or set mask_fill='zero' with mask_keep_value=1")  # fmt: skip
            if args.mask_fill in ("image", "mixed") and args.train_batch_size * args.world_size == 1:
                raise ValueError(f"mask_fill={args.mask_fill!r} shows another image of the batch, which has only one; "
                                 "raise per_device_train_batch_size")  # fmt: skip
            if self.masks is None:
                self.masks = MaskBank.generate(1000, hole_ratio=(0.5, 0.6), seed=0)

    def _with_adapters(self, model: nn.Module) -> nn.Module:
        """The model with the adapters that were asked for, if any."""
        config = self.peft_config
        if has_adapters(model) and (config is not None or self.args.lora_rank):
            raise ValueError("the model has adapters already; train it without peft_config and lora_rank")
        if config is not None and self.args.lora_rank:
            raise ValueError("peft_config and lora_rank exclude each other: the configuration has a rank of its own")
        if config is None and self.args.lora_rank:
            config = low_rank_config(model, self.args.lora_rank)
        if config is None:
            return model
        with torch.random.fork_rng():
            torch.manual_seed(self.args.seed)  # what adapters start from is drawn
            return add_adapters(model, config)

    def call_model_init(self, trial=None) -> nn.Module:
        if trial is not None:  # what the trial sets decides what is made, and whether it can be
            self._hp_search_setup(trial)
            self.args.check()
            check_size(self.train_dataset, self.args)
        return self._with_adapters(own_names(super().call_model_init(trial)))

    def _bind(self) -> None:
        """Do to the model, which `model_init` may have made anew, what the arguments of this run ask for."""
        args, model = self.args, self.model
        self._set_loss()
        if args.sync_batch_norm and args.world_size > 1:
            if args.device.type == "cpu":
                raise ValueError("sync_batch_norm needs GPUs: PyTorch cannot do it on a CPU; set it to false")
            self.model = model = convert_sync_batchnorm(model)  # parameters keep their names
        if args.channels_last:
            model.to(memory_format=torch.channels_last)
        if args.bf16 and args.device.type == "cpu":
            run_depthwise_in_float32(model)
        # Beside adapters the network is frozen, and its statistics are part of it: no adapter file would hold them.
        if has_adapters(model):
            freeze_namesakes(model)  # a checkpoint that was loaded makes them trainable
        if args.freeze_backbone or args.freeze_stages:
            freeze_backbone(model, None if args.freeze_backbone else args.freeze_stages)
        if self._looked_at is not model:  # not again on resuming, when random weights have become trained ones
            self._looked_at, freeze = model, args.freeze_batch_norm or has_adapters(model)
            norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
            if args.freeze_batch_norm is None and not freeze:
                self.frozen_batch_norms = [] if args.sync_batch_norm else list(filter(has_statistics, norms))
            else:
                self.frozen_batch_norms = norms if freeze else []
        parts = list(frozen_parts(model)) if args.freeze_backbone or args.freeze_stages else []
        self.in_inference_mode = [*self.frozen_batch_norms, *parts]
        self.joint_forward = args.masked_forward == "joint" or (
            args.masked_forward == "auto" and joint_equals_separate(model, self.in_inference_mode)
        )
        if args.masked_forward == "visible" and not getattr(model, "can_skip_removed_patches", False):
            raise ValueError("masked_forward='visible' leaves out removed patches, which only an "
                             "MSLForImageClassification on a plain ViT of timm can; use 'auto'")  # fmt: skip
        for callback in self._own_callbacks:
            self.remove_callback(callback)
        self.weight_average = WeightAverage(model, args.ema_decay) if args.ema_decay else None
        # None of them holds the trainer: in a circle of references the loader's workers would outlive it.
        self._own_callbacks = [SetEpoch(self.train_dataset, self.loss.classification_loss)]
        self._own_callbacks += [self.weight_average] if self.weight_average is not None else []
        for callback in self._own_callbacks:
            self.add_callback(callback)
        self._micro_step = (-1, 0)  # optimizer step, and the number of the micro-batch within it
        self._component_sums: dict[str, torch.Tensor] = {}
        self._component_count = 0
        self._finite = FiniteCheck()
        self._checked_modes: set[bool] = set()  # whether targets of training, and of evaluation, have been looked at

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        """As in `Trainer`.

        Raises:
            ValueError: where the images are fewer than one step takes, or a checkpoint is of another network.
        """
        check_size(self.train_dataset, self.args)
        # Sharded weights are loaded in another way, and their model may hold parts alone.
        is_sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
        if isinstance(resume_from_checkpoint, str | os.PathLike) and not is_sharded:
            check_weights(Path(resume_from_checkpoint), self.model)
        if not self.args.cache_features:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        self.cache_features()
        own = self.train_dataset, self.eval_dataset
        try:
            self.train_dataset, self.eval_dataset = self._cached
            return super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            self.train_dataset, self.eval_dataset = own

    def cache_features(self) -> None:
        """Compute and keep what the head reads of the training images, and of those that evaluation sees in training.

        `train` does so by itself where `args.cache_features` is set. What is there already is not computed again.

        Raises:
            ValueError: for data that cannot be cached, a folder with features of something else, a disk that is full.
        """
        args, model, images = self.args, self.model, self.train_dataset
        if self._cached is not None:
            return
        if not isinstance(images, ImageDataset) or not isinstance(model, MSLForImageClassification):
            raise ValueError("cache_features needs an MSLForImageClassification, and images and labels that are no "
                             "stream: it reads each of them several times")  # fmt: skip
        if images.first_epochs:
            raise ValueError("cache_features reads images of one size; leave out final_image_size")
        numbers = range(args.cached_views if images.augment else 1)
        masks = self.masks if args.mask_augmentation else None
        masked = {"mask_fill": args.mask_fill, "mask_keep_value": args.mask_keep_value}
        whole = [View(images, n, masks, probability=args.mask_augmentation, **masked) for n in numbers]
        branches = {"features": whole}
        if self.loss.needs_masked_branch:
            branches["masked_features"] = [View(images, n, self.masks, **masked) for n in numbers]
        title = f"Caching {len(numbers)} views of each training image"
        folder = Path(args.feature_dir or Path(args.output_dir) / "features")
        folder.mkdir(parents=True, exist_ok=True)
        # Another run that shares the folder waits, and then finds everything there.
        with FileLock(folder / ".lock") if self.is_world_process_zero() else contextlib.nullcontext():
            train = ViewDataset(images, self._computed(branches, folder, "train", title))
            evaluation = self.eval_dataset
            if isinstance(evaluation, ImageDataset):
                whole, title = {"features": [View(evaluation, 0)]}, "Caching the evaluation images"
                evaluation = ViewDataset(evaluation, self._computed(whole, folder, "evaluation", title))
        self._cached = train, evaluation

    def _computed(
        self, branches: Mapping[str, list[View]], folder: Path, name: str, title: str
    ) -> dict[str, list[FeatureFiles]]:
        """The features of views, on disk; every process computes its share."""
        self.accelerator.wait_for_everyone()
        args, model = self.args, self.model.eval()
        precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "float32"
        files = open_files(model, branches, folder, name, args.feature_dtype, precision)
        views, files_of_views = (list(itertools.chain(*groups.values())) for groups in (branches, files))
        missing = [file.missing() for file in files_of_views]
        self.accelerator.wait_for_everyone()  # before anyone writes
        if self.is_world_process_zero():
            check_space(files_of_views, title)

        def features_of(pixel_values: torch.Tensor) -> torch.Tensor:
            parts = pixel_values.split(args.per_device_eval_batch_size)
            with torch.no_grad(), self.compute_loss_context_manager():
                return torch.cat([model.local_features(self._on_device(part)).cpu() for part in parts])

        share = [blocks[args.process_index :: args.world_size] for blocks in missing]
        progress = logging.tqdm(total=sum(map(len, itertools.chain(*share))), unit=" images", desc=title,
                        disable=args.disable_tqdm or not self.is_local_process_zero())  # fmt: skip
        with progress:
            for view, file, blocks in zip(views, files_of_views, share, strict=True):
                for rows, pixel_values in batches_of(view, blocks, args.dataloader_num_workers):
                    file.write(rows, features_of(pixel_values))
                    progress.update(len(rows))
        self.accelerator.wait_for_everyone()
        return files

    def _on_device(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self._normalized({"pixel_values": pixel_values.to(self.args.device)})["pixel_values"]

    def _init_training_state(
        self, max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
    ) -> tuple[int, int]:
        """(passes over the data, batches of the pass at hand) to leave out when a run goes on from a checkpoint.

        `Trainer` takes `max_steps` for the length of a stream, and so forgets how often the stream has ended. The
        epoch knows: its whole part counts the passes, its fraction the batches as a share of those `max_steps`.
        """
        # Here model and arguments are those of the run, or of the trial of a search, and nothing is wrapped yet.
        self._bind()
        if self.weight_average is not None:
            self.weight_average.checkpoint = resume_from_checkpoint
        passes, batches = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )
        if batches and not has_length(self.train_dataset):
            fraction, passes = math.modf(self.state.epoch)
            batches = round(fraction * max_steps * self.args.gradient_accumulation_steps)
            if isinstance(self.train_dataset, StreamedImages):
                self.train_dataset.set_epoch(int(passes))
                self.train_dataset.pass_over(batches, self.args.train_batch_size)
        return int(passes), batches

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        step, micro_step = self._micro_step
        step, micro_step = (step, micro_step + 1) if step == self.state.global_step else (self.state.global_step, 0)
        self._micro_step = (step, micro_step)
        # Dropout, too, becomes a function of the counters instead of saved generator state.
        torch.manual_seed(self._counter_generator().initial_seed())
        return super().training_step(model, inputs, num_items_in_batch)

    def _counter_generator(self) -> torch.Generator:
        step, micro_step = self._micro_step
        return counter_generator(self.args.seed, max(step, 0), micro_step, self.args.process_index)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Equation 1 in training; plain classification loss of the whole image in evaluation."""
        labels, name = inputs.get("labels"), "features" if "features" in inputs else "pixel_values"
        seen = self._normalized(inputs)[name]
        if labels is None:
            raise ValueError("the batch has no 'labels'; MSLTrainer needs multi-hot labels (B, C)")
        if model.training not in self._checked_modes:
            check_targets(labels)
            self._checked_modes.add(model.training)
        if not model.training:
            outputs = model(**_seen_as(name, seen))
            plain = MSLLoss((1, 0, 0), self.loss.classification_loss).eval()
            loss = plain(outputs.logits, None, labels)["loss"]
            return (loss, {"loss": loss, "logits": outputs.logits}) if return_outputs else loss

        self.loss.train()
        for module in self.in_inference_mode:
            module.eval()  # Trainer puts the whole model into training mode before every step
        if not self.loss.needs_masked_branch:
            if self.args.mask_augmentation and name == "pixel_values":
                seen = self._mask_some(seen, inputs[name])
            logits, masked_logits, chosen = model(**_seen_as(name, seen)).logits, None, None
        else:
            generator, keep, num_visible = self._counter_generator(), None, None
            chosen = self._choose(seen, generator)
            if f"masked_{name}" in inputs:  # masked when it was made
                masked = self._normalized(inputs)[f"masked_{name}"]
                masked = masked if chosen is None else masked[chosen]
            else:
                part = seen if chosen is None else seen[chosen]
                keep, masked, num_visible = self._mask(part, generator, inputs[name], chosen)
            if self.args.masked_forward == "sequential":
                logits, masked_logits = self._sequential_logits(model, seen, masked, labels, chosen)
            elif self.args.masked_forward == "visible":
                logits = model(pixel_values=seen).logits
                masked_logits = model(pixel_values=masked, keep=keep, num_visible=num_visible).logits
            elif self.joint_forward:
                both = model(**_seen_as(name, torch.cat([seen, masked]))).logits
                logits, masked_logits = both.split([len(seen), len(masked)])
            else:
                logits, masked_logits = (model(**_seen_as(name, images)).logits for images in (seen, masked))
        losses = self.loss(logits, masked_logits, labels, chosen)
        self._finite.note(losses, labels, self.state.global_step, inputs.get("image_ids", ()))
        for name, value in losses.items():
            if name != "loss":
                total = self._component_sums.get(name, 0.0)
                self._component_sums[name] = total + value.detach()
        self._component_count += 1
        return (losses["loss"], {"loss": losses["loss"], "logits": logits}) if return_outputs else losses["loss"]

    def _normalized(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The batch with its images as the network takes them: in uint8 they have come to the device."""
        result = dict(inputs)
        for name in ("pixel_values", "masked_pixel_values"):
            if name in inputs:
                pixel_values = inputs[name]
                if self.args.channels_last and pixel_values.dim() == 4:
                    pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
                result[name] = normalized(pixel_values, self.image_mean, self.image_std)
        return result

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """As in `Trainer`, of images in uint8, too, and of tiles (B, T, 3, H, W), which have no loss."""
        inputs = self._normalized(inputs)
        if "features" in inputs or inputs["pixel_values"].dim() < 5:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        with torch.no_grad(), self.compute_loss_context_manager():
            logits = tile_logits(model, inputs["pixel_values"].unbind(1))
        return None, logits, inputs.get("labels")

    def _check_finite(self, weights: bool = False) -> None:
        """Stop where a loss since the last look, or the weights, are no numbers: with the words that help."""
        try:
            self._finite.read()
            if weights:
                check_finite_weights(itertools.chain(self.model.named_parameters(), self.model.named_buffers()))
        except FloatingPointError as error:
            folder = get_last_checkpoint(self.args.output_dir) if os.path.isdir(self.args.output_dir) else None
            last = f", the last one is {folder}" if folder else ""
            raise FloatingPointError(f"{error}; the checkpoints written so far are good{last}. Lower the learning "
                                     "rate, or clip gradients with --max_grad_norm 1") from None  # fmt: skip

    def _choose(self, pixel_values, generator: torch.Generator) -> torch.Tensor | None:
        """(B',) which images the masked branch sees; None for all."""
        if self.args.masked_share == 1:
            return None
        count = max(1, round(self.args.masked_share * len(pixel_values)))
        chosen = torch.randperm(len(pixel_values), generator=generator)[:count]
        return chosen.to(pixel_values.device, non_blocking=True)

    def _mask(
        self, pixel_values, generator: torch.Generator, batch: torch.Tensor, chosen: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, list[int] | None]:
        """Fresh masks (B, 1, H, W), the masked images, and how many patches the masks leave, where that is asked."""
        device, num_visible = pixel_values.device, None
        if self.args.masked_forward == "visible":
            # Drawn where they can be counted without waiting for the device.
            keep = self.masks.sample(len(pixel_values), pixel_values.shape[-2:], "cpu", generator)
            num_visible = self.accelerator.unwrap_model(self.model).count_visible(keep)
            keep = keep.to(device, non_blocking=True)
        else:
            keep = self.masks.sample(len(pixel_values), pixel_values.shape[-2:], device, generator)
        fill, others = self.args.mask_fill, None
        if fill in ("image", "mixed"):
            others = self._others(batch)
            if others is None:
                fill = "noise"
            elif chosen is not None:
                others = others[chosen]
        statistics = self.image_mean, self.image_std
        masked = apply_mask(pixel_values, keep, *statistics, fill, self.args.mask_keep_value, generator, others)
        return keep, masked, num_visible

    def _others(self, batch: torch.Tensor) -> torch.Tensor | None:
        """For each image of this process's batch another one of the batch of all processes; None where it is alone.

        Which one depends on the counters and the positions in the batch of all processes, not on their number.
        """
        step, micro_step = self._micro_step
        first, count = self.args.process_index * len(batch), self.args.world_size * len(batch)
        if count == 1:
            return None
        shift = torch.randint(1, count, (1,), generator=counter_generator(self.args.seed, max(step, 0), micro_step))
        positions = (first + torch.arange(len(batch)) + shift) % count
        everyone = self.accelerator.gather(batch)  # as they came, which is a quarter in uint8
        others = everyone[positions.to(batch.device, non_blocking=True)]
        return self._normalized({"pixel_values": others})["pixel_values"]

    def _mask_some(self, pixel_values: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
        """Each image masked with probability `mask_augmentation`."""
        generator = self._counter_generator()
        masked = self._mask(pixel_values, generator, batch)[1]
        chosen = torch.rand(len(pixel_values), 1, 1, 1, generator=generator) < self.args.mask_augmentation
        return torch.where(chosen.to(pixel_values.device, non_blocking=True), masked, pixel_values)

    def _sequential_logits(self, model, pixel_values, masked, labels, chosen) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of both branches with never more than one graph in memory.

        The loss is a function of z and z': its gradient is that through z with z' held fixed, plus that through z'
        with z held fixed. The first part runs here, after a forward for the value of z' alone; the second is what the
        caller's backward does, for which z is returned without its graph.
        """
        seed = self._counter_generator().initial_seed()
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        with torch.no_grad():
            torch.manual_seed(seed + 1)  # dropout of the masked branch: the same in both of its forwards
            masked_logits = model(pixel_values=masked).logits
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])  # running statistics see every image once
        with self.accelerator.no_sync(model):
            torch.manual_seed(seed)
            logits = model(pixel_values=pixel_values).logits
            loss = self.loss(logits, masked_logits, labels, chosen)["loss"]
            self.accelerator.backward(loss / self.current_gradient_accumulation_steps)
        torch.manual_seed(seed + 1)
        return logits.detach(), model(pixel_values=masked).logits

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """As in `Trainer`; during training with the averaged weights, where there are such."""
        if self.is_in_train:
            self._check_finite(weights=True)  # not after an hour of it, and before the best model is written
        is_averaging = self.weight_average is not None and self.is_in_train
        with self.weight_average.in_place() if is_averaging else contextlib.nullcontext():
            return super().evaluate(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the mean of each loss component since the last log line, under `loss_<component>`.

        Raises:
            FloatingPointError: where a loss since then was not finite.
        """
        self._check_finite()
        if "loss" in logs and self._component_count:
            for name, total in self._component_sums.items():
                mean = self.accelerator.reduce(total / self._component_count, reduction="mean")
                logs[f"loss_{name}"] = mean.item()
            self._component_sums, self._component_count = {}, 0
        super().log(logs, start_time)

    def push_to_hub(self, repo_id: str | None = None, commit_message: str = "End of training", **kwargs):
        """Upload model, processor, the model's own code and the card.

        Args:
            repo_id: `"me/photos"`, or None for `args.hub_model_id`, else the name of the output folder. A text that
                is no id of a repository is the message, which `Trainer` takes here.
            commit_message: Of the upload.
            **kwargs: As for `Trainer.push_to_hub`.
        """
        if repo_id is not None:
            try:
                validate_repo_id(repo_id)
            except HFValidationError:
                repo_id, commit_message = None, repo_id
        if repo_id is not None and repo_id != self.args.hub_model_id:
            self.args.hub_model_id, self.hub_model_id = repo_id, None
        return super().push_to_hub(commit_message, **kwargs)

    def create_model_card(self, model_name: str | None = None, license: str | None = None, **kwargs) -> None:
        """The card for `push_to_hub`: that which a recipe wrote, else one of what this trainer knows.

        Args:
            model_name: Not used: the model is called as its folder is.
            license: Licence of the model.
            **kwargs: `dataset` and `finetuned_from` say what it was trained on and from.
        """
        folder = Path(self.args.output_dir)
        if not self.is_world_process_zero() or is_our_card(folder / "README.md"):
            return
        config = getattr(self.model, "config", None)
        evaluations = [log for log in self.state.log_history if "eval_loss" in log]
        results, own_metrics = {"epoch": self.state.epoch or 0.0}, {}
        if evaluations:
            figures = {key: value for key, value in evaluations[-1].items() if key.startswith("eval_")}
            found = {key.removeprefix("eval_"): value for key, value in figures.items()}
            results["clean"] = {name: found[name] for name in METRICS if name in found}
            own_metrics = {} if results["clean"] else {k: v for k, v in found.items() if k not in TIMINGS}
        seconds = [log["train_runtime"] for log in self.state.log_history if "train_runtime" in log]
        sizes = [len(data) if hasattr(data, "__len__") else None for data in (self.train_dataset, self.eval_dataset)]
        report = {
            "model": "last",
            "last": results,
            "license": license,
            "dataset": kwargs.get("dataset") or "images of one's own",
            "base_model": kwargs.get("finetuned_from")
            or getattr(getattr(config, "backbone_config", None), "name_or_path", None)
            or "a network",
            "num_labels": getattr(config, "num_labels", "several"),
            "train_split": None,
            "selection_split": None,
            "test_split": "eval_dataset" if evaluations else None,
            "num_train_images": sizes[0],
            "num_test_images": sizes[1],
            "own_metrics": own_metrics,
            "command": " ".join(sys.argv),
            "train_seconds": sum(seconds),
            "hardware": f"{self.args.world_size} x {self.args.device}",
            "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "msl_hf")},
        }
        write_card(folder, report, self.args.what_makes_a_run())

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """The optimizer of `Trainer`, with a learning rate of its own for the head, and for each layer where asked."""
        if self.optimizer is not None:
            return super().create_optimizer(model)
        super().create_optimizer(model)
        factors = self._rate_factors(self.model if model is None else model)
        groups, self.optimizer.param_groups = self.optimizer.param_groups, []
        for group in groups:
            for factor in sorted({factors[parameter] for parameter in group["params"]}):
                parameters = [parameter for parameter in group["params"] if factors[parameter] == factor]
                rate = group.get("lr")  # of `optimizer_cls_and_kwargs`, where it has one; Adafactor may have none
                rate = rate if rate is None else rate * factor
                self.optimizer.add_param_group({**group, "params": parameters, "lr": rate})
        return self.optimizer

    def _rate_factors(self, model: nn.Module) -> dict[nn.Parameter, float]:
        """The learning rate of each parameter, as a multiple of `learning_rate`."""
        factors, args = {}, self.args
        for name, parameter in model.named_parameters():
            factors[parameter] = args.head_lr_multiplier if is_head_parameter(name) else 1.0
        if args.layer_decay != 1:
            backbone = getattr(self.accelerator.unwrap_model(model), "backbone", model)
            depths = layer_depths(backbone)
            for name, parameter in backbone.named_parameters():
                if factors[parameter] == 1.0:  # not of the head, where the network has no part called backbone
                    factors[parameter] = args.layer_decay ** (max(depths.values()) - depths[name])
        return factors

    def get_decay_parameter_names(self, model) -> list[str]:
        """Weight decay for matrices and filters only, or for every parameter as in the paper."""
        decay_all = self.args.decay_norm_and_bias
        return [name for name, parameter in model.named_parameters() if decay_all or parameter.ndim > 1]

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write a model that loads by its class alone: adapters are merged into the weights, but for checkpoints.

        Raises:
            FloatingPointError: where weights, or a loss since the last look, are not finite; nothing is written.
        """
        self._check_finite(weights=True)
        is_checkpoint = _internal_call and Path(output_dir or "").name.startswith(PREFIX_CHECKPOINT_DIR)
        if not has_adapters(self.model) or is_checkpoint:
            return super().save_model(output_dir, _internal_call)
        own, self.model = self.model, merged(self.model)
        try:
            super().save_model(output_dir, _internal_call)
        finally:
            self.model = own

    def save_adapter(self, output_dir: str | os.PathLike) -> None:
        """Write the adapters and the head alone, a few megabytes for `peft.PeftModel.from_pretrained`.

        Raises:
            ValueError: where the model has no adapters.
        """
        if not has_adapters(self.model):
            raise ValueError("the model has no adapters to save: pass peft_config, or lora_rank in the arguments")
        if self.is_world_process_zero():
            self.accelerator.unwrap_model(self.model).save_pretrained(output_dir)

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        """A schedule of transformers, or the paper's where `lr_step_epochs` is set."""
        if self.lr_scheduler is None and self.args.lr_step_epochs is not None:
            batches = len(self.get_train_dataloader())
            self.lr_scheduler = warmup_step_schedule(
                optimizer or self.optimizer,
                steps_per_epoch=math.ceil(batches / self.args.gradient_accumulation_steps),
                warmup_epochs=self.args.lr_warmup_epochs,
                step_epochs=self.args.lr_step_epochs,
            )
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def get_train_dataloader(self) -> DataLoader:
        """As in `Trainer`, but that every process reads its own share of a stream.

        `Trainer` has the first one read all of it, and send the others their batches, of tensors alone.
        """
        args, stream = self.args, self.train_dataset
        if not isinstance(stream, StreamedImages):
            return super().get_train_dataloader()
        stream.deal(args.process_index, args.world_size)
        loader = DataLoader(
            stream,
            args.train_batch_size,
            collate_fn=self.data_collator,
            drop_last=args.dataloader_drop_last,
            num_workers=args.dataloader_num_workers,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            pin_memory=args.dataloader_pin_memory,
        )
        # Of one process, as far as Accelerate knows: it would deal the batches once more.
        return prepare_data_loader(loader, args.device, num_processes=1, process_index=0, put_on_device=True,
                                   dispatch_batches=False)  # fmt: skip

    def get_eval_dataloader(self, eval_dataset=None):
        with self._evaluation_loading():
            return super().get_eval_dataloader(self._evaluated(eval_dataset))

    def get_test_dataloader(self, test_dataset):
        with self._evaluation_loading():
            return super().get_test_dataloader(self._evaluated(test_dataset))

    def _evaluated(self, dataset):
        """Images and labels as the model wants them; what gives batches, as it is."""
        if self.class_names is None or not has_images(dataset):
            return dataset
        dataset = in_schema({"the data set": dataset}, self.class_names)["the data set"]
        return make_images(dataset, self.processing_class)

    @contextlib.contextmanager
    def _evaluation_loading(self):
        """Evaluation has its own collator, and scores every image whatever `dataloader_drop_last` says.

        Its loaders end with it: `Trainer` would keep one with persistent workers, and go on with its images where
        others are asked for.
        """
        changed = {"dataloader_drop_last": False, "dataloader_persistent_workers": False}
        own, collator = {name: getattr(self.args, name) for name in changed}, self.data_collator
        self.data_collator = self.eval_data_collator
        try:
            vars(self.args).update(changed)
            yield
        finally:
            vars(self.args).update(own)
            self.data_collator = collator


def _seen_as(name: str, values: torch.Tensor) -> dict[str, torch.Tensor | None]:
    """What a network is called with: images, or features of a cache in their place."""
    return {"pixel_values": values} if name == "pixel_values" else {"pixel_values": None, name: values}


def check_size(train_dataset, args: MSLTrainingArguments) -> None:
    """Refuse to train on fewer images than one batch of all processes where incomplete batches are dropped.

    Args:
        train_dataset: The training images, or a stream, whose length nobody knows.
        args: Of the run.

    Raises:
        ValueError: naming the numbers, and the way out.
    """
    if not has_length(train_dataset):
        return
    count, needed = len(train_dataset), args.train_batch_size * args.world_size if args.dataloader_drop_last else 1
    if count < needed:
        processes = f" on {args.world_size} processes" if args.world_size > 1 else ""
        way_out = "; lower --per_device_train_batch_size, or keep incomplete batches with --dataloader_drop_last false"
        raise ValueError(f"{count} training images do not fill one batch of {args.train_batch_size}{processes}"
                         f"{way_out if count else ''}")  # fmt: skip


def check_weights(checkpoint: Path, model: nn.Module) -> None:
    """Refuse a checkpoint whose weights are not those of this network; `Trainer` would load those that fit.

    Raises:
        ValueError: naming the first weight that is missing, or of another shape.
    """
    full, adapter = (checkpoint / name for name in (SAFE_WEIGHTS_NAME, ADAPTER_SAFE_WEIGHTS_NAME))
    if has_adapters(model) and full.is_file() and not adapter.is_file():
        raise ValueError(f"{checkpoint}: holds no adapters, as this run trains; it is of a run without lora_rank")
    if not has_adapters(model) and adapter.is_file() and not full.is_file():
        raise ValueError(f"{checkpoint}: holds adapters alone; it is of a run with lora_rank")
    if has_adapters(model) or not full.is_file():
        return
    with safe_open(full, "pt") as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    for name, value in model.state_dict().items():
        if name in found and found[name] != tuple(value.shape):
            raise ValueError(f"{full}: is of another network: {name} has the shape {found[name]}, not "
                             f"{tuple(value.shape)}")  # fmt: skip
    unexpected = sorted(set(found) - set(model.state_dict()))
    if unexpected:
        raise ValueError(f"{full}: is of another network, which has {unexpected[0]}")
    # Weights that share their memory are stored once.
    there = {value.data_ptr() for name, value in model.state_dict().items() if name in found}
    missing = [name for name, value in model.state_dict().items() if value.data_ptr() not in there]
    if missing:
        raise ValueError(f"{full}: is of another network, which has no {missing[0]}")


def own_names(model: nn.Module) -> nn.Module:
    """What `torch.compile` wrapped, which computes as compiled and calls its parameters by their own names.

    With the wrapper's names for them a saved model could not be loaded, nor a checkpoint into it.
    """
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if hasattr(child, "_orig_mod"):
                setattr(parent, name, own_names(child))
    module = getattr(model, "_orig_mod", None)
    if module is None:
        return model
    module._compiled_call_impl = model.dynamo_ctx(module._call_impl)  # as `module.compile()` does
    return module


def has_statistics(norm: _BatchNorm) -> bool:
    """Whether batch normalisation has running statistics that were learnt, and not those that random weights have."""
    if norm.running_mean is None:
        return False
    return bool(norm.running_mean.any() or (norm.running_var != 1).any())


def joint_equals_separate(model: nn.Module, frozen: Sequence[nn.Module] = ()) -> bool:
    """Whether one forward of image and masked image together equals two: no batch statistics, no dropout.

    Dropout is looked for in modules and, because native attention applies it as a function, in the configuration.

    Args:
        model: The network.
        frozen: Modules that are in inference mode while it is trained.
    """
    still = {module for part in frozen for module in part.modules()}
    for module in set(model.modules()) - still:
        if isinstance(module, _BatchNorm):
            return False
        rates = (getattr(module, name, None) for name in ("p", "drop_prob"))
        if "drop" in type(module).__name__.lower() and any(isinstance(rate, float) and rate > 0 for rate in rates):
            return False
    config = getattr(getattr(model, "config", None), "backbone_config", None)
    settings = vars(config) if config is not None and model.backbone not in still else {}
    return not any("drop" in name and isinstance(value, float) and value > 0 for name, value in settings.items())
