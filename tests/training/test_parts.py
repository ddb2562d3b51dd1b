"""What the trainer makes where it is not given: three lines from images to a model."""

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image
from torch import nn
from transformers import AutoModel
from transformers.modeling_outputs import ImageClassifierOutput

from msl_hf import MSLForImageClassification, MSLTrainer, MSLTrainingArguments
from msl_hf.console.configs import shipped
from msl_hf.data import ImageDataset, MultiLabelCollator, build_processor, load_image_folder, load_voc, make_scenes
from msl_hf.training.parts import has_images

NAMES = ["cat", "dog", "owl"]
LABELS = [["cat"], ["dog", "owl"], [], ["owl"]] * 4


def arguments(folder, **kwargs):
    kwargs.setdefault("model_init_kwargs", {"image_size": 32})
    return MSLTrainingArguments(str(folder), use_cpu=True, report_to="none", disable_tqdm=True, max_steps=2,
                                per_device_train_batch_size=4, save_strategy="no", **kwargs)  # fmt: skip


def images(count: int = len(LABELS)) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)) for _ in range(count)]


def plain(labels, feature, name: str = "labels", image: str = "photo") -> Dataset:
    """As `datasets.load_dataset` gives it: columns of one's own names, no image_id."""
    features = Features({image: ImageFeature(), name: feature})
    return Dataset.from_dict({image: images(len(labels)), name: labels}, features=features)


def multi_hot(rows):
    return [[float(name in row) for name in NAMES] for row in rows]


def targets(trainer) -> torch.Tensor:
    return torch.cat([trainer.data_collator([item])["labels"] for item in trainer.train_dataset])


def test_three_lines(backbone_folder, scenes, tmp_path):
    data = load_voc(scenes)
    trainer = MSLTrainer(
        model=str(backbone_folder("timm_resnet")),
        args=arguments(tmp_path),
        train_dataset=data["train"],
        eval_dataset=data["val"],
    )
    trainer.train()
    assert 0 <= trainer.evaluate()["eval_mAP"] <= 1
    assert trainer.predict(data["test"]).predictions.shape == (11, 10)  # images of another split, too
    trainer.save_model()
    model = MSLForImageClassification.from_pretrained(tmp_path)
    assert [model.config.id2label[index] for index in range(10)] == trainer.class_names
    assert model.config.image_height_width == (32, 32)
    assert trainer.train_dataset.augment and not trainer.eval_dataset.augment
    assert (tmp_path / "preprocessor_config.json").is_file()


def test_the_parts_are_those_that_one_would_write(backbone_folder, scenes, tmp_path):
    """The same weights after two steps as with every part given."""
    data, folder = load_voc(scenes).remove_columns("ignored"), backbone_folder("timm_resnet")
    short = MSLTrainer(str(folder), arguments(tmp_path), train_dataset=data["train"])
    short.train()
    names = data["train"].features["labels"].feature.names
    torch.manual_seed(42)  # the seed of the arguments
    model = MSLForImageClassification.from_backbone(folder, names, image_size=32)
    processor = build_processor(folder, 32)
    long = MSLTrainer(
        model,
        arguments(tmp_path, model_init_kwargs=None),
        processing_class=processor,
        train_dataset=ImageDataset(data["train"], processor, augment=True, seed=42),
        data_collator=MultiLabelCollator(len(names)),
    )
    long.train()
    assert all(torch.equal(value, long.model.state_dict()[name]) for name, value in short.model.state_dict().items())


@pytest.mark.parametrize(
    "data",
    [
        plain(LABELS, List(Value("string"))),
        plain([[NAMES.index(name) for name in row] for row in LABELS], List(ClassLabel(names=NAMES))),
        plain([";".join(row) for row in LABELS], Value("string")),
        plain(multi_hot(LABELS), List(Value("float32"))),
    ],
    ids=["names", "class labels", "text", "multi-hot"],
)
def test_labels_of_any_kind(backbone_folder, tmp_path, data):
    trainer = MSLTrainer(str(backbone_folder("timm_resnet")), arguments(tmp_path), train_dataset=data)
    assert torch.equal(targets(trainer), torch.tensor(multi_hot(LABELS)))
    assert trainer.class_names in (NAMES, ["class_0", "class_1", "class_2"])


def test_class_names_are_those_of_all_splits(backbone_folder, tmp_path):
    train, test = plain([["cat"], ["owl"]] * 4, List(Value("string"))), plain([["dog"]], List(Value("string")))
    trainer = MSLTrainer(str(backbone_folder("timm_resnet")), arguments(tmp_path), train_dataset=train,
                         eval_dataset={"one": test, "two": test})  # fmt: skip
    assert trainer.class_names == NAMES
    assert {"eval_one_loss", "eval_two_mAP"} <= set(trainer.evaluate())


def test_splits_that_disagree_are_refused(backbone_folder, tmp_path):
    train = plain([[0]] * 4, List(ClassLabel(names=["cat", "dog"])))
    test = plain([[0]], List(ClassLabel(names=["dog", "cat"])))
    with pytest.raises(ValueError, match="eval_dataset has the classes dog, cat, and not cat, dog"):
        MSLTrainer(str(backbone_folder("timm_resnet")), arguments(tmp_path), train_dataset=train, eval_dataset=test)


def test_unknown_labels_are_left_out(backbone_folder, tmp_path, capsys):
    folder = tmp_path / "photos"
    (folder / "train").mkdir(parents=True)
    for name, image in zip("ab", images(2), strict=True):
        image.save(folder / "train" / f"{name}.png")
    (folder / "train" / "metadata.jsonl").write_text(
        '{"file_name": "a.png", "labels": ["cat"], "ignored": ["dog"]}\n{"file_name": "b.png", "labels": ["dog"]}\n'
    )
    data = load_image_folder(folder)["train"]
    trainer = MSLTrainer(str(backbone_folder("timm_resnet")), arguments(tmp_path / "out"), train_dataset=data)
    assert targets(trainer).tolist() == [[1, -100], [0, 1]] and "left out of the loss" in capsys.readouterr().out


def test_a_backbone_as_it_was_loaded(backbone_folder, tmp_path):
    backbone = AutoModel.from_pretrained(backbone_folder("timm_vit"))
    trainer = MSLTrainer(backbone, arguments(tmp_path), train_dataset=plain(LABELS, List(Value("string"))))
    own, given = trainer.model.backbone.state_dict(), backbone.state_dict()
    assert all(torch.equal(own[name].cpu(), value) for name, value in given.items())
    assert trainer.processing_class.size["height"] == 32


def test_an_msl_model_by_its_folder_keeps_what_it_knows(tiny_model, tmp_path, capsys):
    model = tiny_model("timm_resnet")
    model.save_pretrained(tmp_path / "model")
    build_processor(None, 32, [0.1] * 3, [0.2] * 3).save_pretrained(tmp_path / "model")
    old = [model.config.id2label[index] for index in range(3)]
    data = plain([[old[1], "new"], [old[0]]] * 4, List(Value("string")))
    trainer = MSLTrainer(str(tmp_path / "model"), arguments(tmp_path, model_init_kwargs=None), train_dataset=data)
    assert list(trainer.processing_class.image_mean) == [0.1] * 3
    position = trainer.class_names.index(old[1])
    assert torch.equal(trainer.model.head.weight[0, position], model.head.weight[0, 1])
    assert "its head is replaced" in capsys.readouterr().out
    # An instance knows its folder, too; but it is not changed behind one's back.
    loaded = MSLForImageClassification.from_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="label 'new' is not among the classes cat, dog, fish"):
        MSLTrainer(loaded, arguments(tmp_path, model_init_kwargs=None), train_dataset=data)
    others = plain([[0]] * 8, List(ClassLabel(names=trainer.class_names)))
    with pytest.raises(ValueError, match="replace_head"):
        MSLTrainer(loaded, arguments(tmp_path, model_init_kwargs=None), train_dataset=others)
    loaded.replace_head(trainer.class_names)
    again = MSLTrainer(loaded, arguments(tmp_path, model_init_kwargs=None), train_dataset=data)
    assert list(again.processing_class.image_std) == [0.2] * 3


def test_names_are_read_in_the_order_of_a_model_that_is_there(tiny_model, tmp_path):
    model = tiny_model()
    model.replace_head(["owl", "cat", "dog"])
    data, processor = plain(LABELS, List(Value("string"))), build_processor(None, 32)
    trainer = MSLTrainer(model, arguments(tmp_path, model_init_kwargs=None), processing_class=processor,
                         train_dataset=data)  # fmt: skip
    assert trainer.class_names == ["owl", "cat", "dog"] and targets(trainer)[1].tolist() == [1, 0, 1]


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, pixel_values):
        return ImageClassifierOutput(logits=self.head(self.body(pixel_values).mean((2, 3))))


def test_any_network_with_logits(tmp_path):
    data = plain(LABELS, List(Value("string")))
    kwargs = {"args": arguments(tmp_path, model_init_kwargs=None), "train_dataset": data, "eval_dataset": data}
    with pytest.raises(ValueError, match="pass its image processor as processing_class"):
        MSLTrainer(Network(), **kwargs)
    trainer = MSLTrainer(Network(), processing_class=build_processor(None, 16), **kwargs)
    trainer.train()
    assert "eval_mAP" in trainer.evaluate()


def test_what_cannot_be_made_says_so(backbone_folder, tiny_model, tmp_path):
    folder = str(backbone_folder("timm_resnet"))
    batches = [{"pixel_values": torch.zeros(3, 32, 32), "labels": torch.zeros(3)}] * 8
    with pytest.raises(ValueError, match="no class names .*label_names"):
        MSLTrainer(folder, arguments(tmp_path), train_dataset=batches)
    with pytest.raises(ValueError, match="model_init_kwargs .image_size. say how a model is made"):
        MSLTrainer(tiny_model(), arguments(tmp_path), train_dataset=plain([["cat"]] * 8, List(Value("string"))))
    names = {"label_names": NAMES, "image_size": 32}
    trainer = MSLTrainer(folder, arguments(tmp_path, model_init_kwargs=names), train_dataset=batches)
    assert trainer.model.config.num_labels == 3 and trainer.image_mean is not None


def test_a_transform_of_ones_own_is_left_alone(tiny_model, tmp_path):
    data = plain(LABELS, List(Value("string")))
    assert has_images(data) and not has_images([1]) and not has_images(None)

    def transform(rows):
        return {"pixel_values": [torch.zeros(3, 32, 32)] * len(rows["photo"]),
                "labels": [torch.tensor(row) for row in multi_hot(rows["labels"])]}  # fmt: skip

    data = data.with_transform(transform)
    assert not has_images(data)
    trainer = MSLTrainer(tiny_model(), arguments(tmp_path, model_init_kwargs=None, mask_fill="zero"),
                         train_dataset=data)  # fmt: skip
    trainer.train()
    assert trainer.train_dataset is data


def test_streams(backbone_folder, tmp_path):
    data = plain([[NAMES.index(name) for name in row] for row in LABELS], List(ClassLabel(names=NAMES)))
    stream = data.to_iterable_dataset()
    trainer = MSLTrainer(str(backbone_folder("timm_resnet")), arguments(tmp_path), train_dataset=stream,
                         eval_dataset=data)  # fmt: skip
    trainer.train()
    assert trainer.state.global_step == 2 and "eval_mAP" in trainer.evaluate()


def test_without_arguments_every_epoch_is_evaluated(backbone_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = plain(LABELS, List(Value("string")))
    folder = str(backbone_folder("timm_resnet"))
    assert MSLTrainer(folder, train_dataset=data, eval_dataset=data).args.eval_strategy == "epoch"
    assert MSLTrainer(folder, train_dataset=data).args.eval_strategy == "no"


@pytest.mark.slow
def test_three_lines_beat_chance(tmp_path):
    """On generated scenes, from random weights: chance is 25 %."""
    data = load_voc(make_scenes(tmp_path / "scenes", num_train=600, num_val=200, num_test=10, image_size=64))
    backbone = shipped()["demo"].with_name("demo_backbone.json")
    args = MSLTrainingArguments(
        str(tmp_path / "out"), use_cpu=True, num_train_epochs=8, learning_rate=2e-3, head_lr_multiplier=1,
        per_device_train_batch_size=16, report_to="none", save_strategy="no",
        model_init_kwargs={"image_size": 64, "pretrained": False},
    )  # fmt: skip
    trainer = MSLTrainer(str(backbone), args, train_dataset=data["train"], eval_dataset=data["val"])
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_mAP"] > 0.35
