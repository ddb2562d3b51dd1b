import json

import pytest
import torch
import transformers
from timm.layers import resample_abs_pos_embed
from tiny import BACKBONES, LABELS
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from msl_hf import MSLConfig, MSLForImageClassification


def images(height=32, width=32, count=2) -> torch.Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", BACKBONES)
def test_saved_model_loads_to_the_same_logits(name, tiny_model, tmp_path):
    model = tiny_model(name, num_heads=2).eval()
    model.save_pretrained(tmp_path)
    expected = model(images()).logits
    assert expected.shape == (2, 3) and torch.isfinite(expected).all()
    for auto in (AutoModel, AutoModelForImageClassification):
        loaded = auto.from_pretrained(tmp_path).eval()
        assert isinstance(loaded, MSLForImageClassification)
        assert torch.equal(loaded(images()).logits, expected)
    assert loaded.config.id2label == dict(enumerate(LABELS))
    assert loaded.config.problem_type == "multi_label_classification"


def test_queries_of_ml_decoder_survive_initialisation_and_loading(tiny_model, tmp_path):
    model = tiny_model(head="ml_decoder").eval()
    assert abs(model.head.queries.std().item() - 1) < 0.05
    model.save_pretrained(tmp_path)
    loaded = MSLForImageClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded.head.queries, model.head.queries)
    assert torch.equal(loaded(images()).logits, model(images()).logits)
    # With other classes whatever does not fit is drawn anew; nothing is left as uninitialised memory.
    names = {index: str(index) for index in range(7)}
    other = MSLForImageClassification.from_pretrained(tmp_path, id2label=names, ignore_mismatched_sizes=True).eval()
    assert torch.isfinite(other(images()).logits).all() and abs(other.head.queries.std().item() - 1) < 0.05


@pytest.mark.parametrize("name", BACKBONES)
def test_every_trainable_parameter_gets_a_gradient(name, tiny_model, tmp_path):
    tiny_model(name).save_pretrained(tmp_path)
    model = MSLForImageClassification.from_pretrained(tmp_path)  # freezing has to survive saving and loading
    model(images(), labels=torch.ones(2, 3)).loss.backward()
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert [n for n, p in trainable.items() if p.grad is None] == []
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {f"backbone.{n}" for n in model.config.unused_parameters}
    assert len(trainable) > len(frozen)


@pytest.mark.parametrize("name", BACKBONES)
def test_score_maps_average_to_the_logits(name, tiny_model):
    model = tiny_model(name, csra_lambda=0.0).eval()
    maps = model.score_maps(images())
    assert maps.shape[:2] == (2, 3)
    torch.testing.assert_close(maps.mean(dim=(2, 3)), model(images()).logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("name", "side"), [("timm_convnext", 32), ("timm_vit_pooled", 8), ("hf_convnext", 8)])
def test_backbones_that_normalise_after_pooling_give_the_head_normalised_features(name, side, tiny_model):
    """On an image of one location, pooling changes nothing: the head reads what the backbone pools."""
    model = tiny_model(name).eval()
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # a new normalisation is the same without its weights
    network = getattr(model.backbone, "timm_model", None)
    pooled = network(images(side, side)) if network else model.backbone(images(side, side)).pooler_output
    torch.testing.assert_close(model(images(side, side)).logits, model.head(pooled.unsqueeze(1)))


@pytest.mark.parametrize("name", BACKBONES)
def test_score_maps_of_wide_images_are_wide(name, tiny_model):
    model = tiny_model(name).eval()
    square, wide = model.score_maps(images()), model.score_maps(images(32, 64))
    assert wide.shape[2:] == (square.shape[2], 2 * square.shape[3])


@pytest.mark.parametrize("name", ["timm_vit", "timm_swin", "hf_vit", "timm_resnet", "hf_swin"])
def test_score_maps_show_where_the_change_was(name, tiny_model):
    """A change in the top right corner moves the map most in its top right quarter: rows and columns are not mixed."""
    model = tiny_model(name).eval()
    side = 192 if name == "timm_resnet" else 64  # whose map is a 32nd of the image, and each place of it sees much
    before, changed = images(side, side), images(side, side).clone()
    changed[:, :, : side // 5, -side // 5 :] += 3.0
    difference = (model.score_maps(changed) - model.score_maps(before)).abs().sum(dim=(0, 1))
    height, width = difference.shape
    corner = difference[: (height + 1) // 2, width // 2 :].mean()
    assert corner > 1.5 * difference[height // 2 :, : (width + 1) // 2].mean()


@pytest.mark.parametrize("name", ["timm_vit", "timm_vit_registers", "timm_dinov3", "timm_swin", "hf_vit", "hf_dinov2"])
def test_other_size_resamples_position_embeddings(name, tiny_model, tmp_path):
    model = tiny_model(name, image_size=48).eval()
    logits = model(images(48, 48)).logits
    assert torch.isfinite(logits).all() and model.score_maps(images(48, 48)).shape[2] > 1
    model.save_pretrained(tmp_path)
    loaded = MSLForImageClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(images(48, 48)).logits, logits)


def test_resampled_position_embedding_is_the_old_one_interpolated(tiny_model):
    small, large = (tiny_model("timm_vit", image_size=size).backbone.timm_model.pos_embed for size in (32, 64))
    torch.testing.assert_close(large[:, 0], small[:, 0])  # the class token's is left alone
    grid = [embed[:, 1:].transpose(1, 2).unflatten(2, (side, side)) for embed, side in ((small, 4), (large, 8))]
    expected = torch.nn.functional.interpolate(grid[0], size=(8, 8), mode="bicubic", antialias=True)
    torch.testing.assert_close(grid[1], expected, atol=1e-4, rtol=1e-3)


def test_labels_give_the_loss_and_wrong_shapes_an_error(tiny_model):
    model = tiny_model().eval()
    output = model(images(), labels=torch.tensor([[1.0, 0.0, -100.0], [0.0, 0.0, 1.0]]))
    entries = [(0, 0, 1.0), (0, 1, 0.0), (1, 0, 0.0), (1, 1, 0.0), (1, 2, 1.0)]
    by_hand = [torch.nn.functional.softplus(output.logits[b, c] * (1 - 2 * y)) for b, c, y in entries]
    torch.testing.assert_close(output.loss, torch.stack(by_hand).mean())
    with pytest.raises(ValueError, match=r"multi-hot of shape \(2, 3\)"):
        model(images(), labels=torch.tensor([0, 2]))
    assert len(model(images(), return_dict=False)) == 1


@pytest.mark.parametrize(("name", "stride"), [("resnet10t", 16), ("resnet10t", 8), ("convnext_atto", 16)])
def test_a_smaller_output_stride_gives_finer_maps_from_the_same_weights(name, stride, tmp_path):
    backbone = AutoModel.from_config(AutoConfig.for_model("timm_wrapper", architecture=name))
    coarse, fine = (
        MSLForImageClassification.from_backbone(backbone, ["a", "b"], image_size=64, output_stride=value).eval()
        for value in (None, stride)
    )
    for key, weight in coarse.backbone.state_dict().items():
        assert torch.equal(fine.backbone.state_dict()[key], weight), key
    images = torch.randn(2, 3, 64, 96)
    assert coarse.score_maps(images).shape[2:] == (2, 3)
    assert fine.score_maps(images).shape[2:] == (64 // stride, 96 // stride)
    fine.save_pretrained(tmp_path)
    again = MSLForImageClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(again(images).logits, fine(images).logits)


@pytest.mark.parametrize(
    ("name", "stride", "message"),
    [
        ("timm_vit", 16, "vit_tiny_patch16_224 cannot have an output_stride of 16"),
        ("timm_resnet", 12, "cannot have an output_stride of 12, CNNs 8 or 16"),
        ("hf_resnet", 16, "output_stride is for CNNs of timm, and resnet is none"),
    ],
)
def test_networks_without_an_output_stride(name, stride, message, backbone_folder):
    with pytest.raises(ValueError, match=message):
        MSLForImageClassification.from_backbone(str(backbone_folder(name)), ["a"], image_size=64, output_stride=stride)


def test_keep_is_accepted_and_changes_nothing(tiny_model):
    model = tiny_model().eval()
    keep = torch.ones(2, 1, 32, 32, dtype=torch.bool)
    assert torch.equal(model(images(), keep=keep).logits, model(images()).logits)


@pytest.mark.parametrize("new_labels", [["bird"], ["dog", "cat", "fish"], list("abcdef")])
def test_another_class_list_gets_a_new_trainable_head(new_labels, tiny_model):
    model = tiny_model(num_heads=2)
    old = {name: value.clone() for name, value in model.state_dict().items()}
    model.replace_head(new_labels)
    output = model(images(), labels=torch.ones(2, len(new_labels)))
    output.loss.backward()
    assert torch.isfinite(output.logits).all() and model.head.weight.grad.abs().sum() > 0
    assert model.config.id2label == dict(enumerate(new_labels)) and model.config.num_labels == len(new_labels)
    assert all(torch.equal(value, old[name]) for name, value in model.named_parameters() if "backbone" in name)
    assert model.head.weight.shape != old["head.weight"].shape or not torch.equal(
        model.head.weight, old["head.weight"]
    )


@pytest.mark.parametrize("head", ["csra", "linear", "ml_decoder"])
def test_known_classes_keep_their_logits_in_another_order(head, tiny_model):
    model = tiny_model(head=head, **({"num_heads": 2} if head == "csra" else {})).eval()
    model.config.thresholds = [0.1, 0.2, 0.3]
    before = model(images()).logits
    assert model.replace_head(["fish", "cat", "dog"]) == []
    torch.testing.assert_close(model.eval()(images()).logits, before[:, [2, 0, 1]])
    assert model.config.thresholds == [0.3, 0.1, 0.2]
    assert model.replace_head(["dog", "bird", "cat"]) == ["bird"]
    torch.testing.assert_close(model.eval()(images()).logits[:, [0, 2]], before[:, [1, 0]])
    assert model.config.thresholds is None and model.config.id2label == {0: "dog", 1: "bird", 2: "cat"}


def test_from_pretrained_with_mismatched_classes_is_finite(tiny_model, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    names = dict(enumerate("abcde"))
    model = MSLForImageClassification.from_pretrained(
        tmp_path, id2label=names, label2id={v: k for k, v in names.items()}, ignore_mismatched_sizes=True
    )
    assert model.head.weight.shape[1] == 5
    assert torch.isfinite(model.head.weight).all() and 0 < model.head.weight.abs().max() < 1


def test_gradient_checkpointing_gives_the_same_gradients(tiny_model):
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model("timm_vit").train()
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert model.backbone.timm_model.grad_checkpointing
        model(images(), labels=torch.ones(2, 3)).loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients)


def test_config_round_trip_keeps_everything(tiny_model, tmp_path):
    config = tiny_model("timm_vit", num_heads=4, csra_lambda=0.4).config
    config.thresholds = [0.3, 0.5, 0.7]
    config.save_pretrained(tmp_path)
    loaded, saved = MSLConfig.from_pretrained(tmp_path).to_dict(), config.to_dict()
    assert {**loaded, "transformers_version": None} == {**saved, "transformers_version": None}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"head": "cubic"}, "head must be one of"),
        ({"num_heads": 5}, "num_heads must be one of"),
        ({"num_heads": "two"}, "num_heads"),
        ({"image_size": 0}, "image_size"),
        ({"thresholds": [0.5], "id2label": {0: "a", 1: "b"}}, "thresholds"),
        ({"thresholds": [0.5, 1.5], "id2label": {0: "a", 1: "b"}}, "between 0 and 1"),
        ({"backbone_config": {"model_type": "nonsense"}}, "nonsense"),
    ],
)
def test_config_is_strict(wrong, message):
    with pytest.raises(Exception, match=message):
        MSLConfig(**wrong)


@pytest.mark.parametrize(("labels", "message"), [([], "empty"), (["a", "b", "a"], "a more than once")])
def test_class_names_are_checked(labels, message, backbone_folder):
    with pytest.raises(ValueError, match=message):
        MSLForImageClassification.from_backbone(backbone_folder("timm_resnet"), labels)


def test_from_scratch_by_timm_name():
    model = MSLForImageClassification.from_backbone("resnet10t", LABELS, image_size=64, pretrained=False)
    assert model(images(64, 64)).logits.shape == (2, 3)


def test_saved_config_names_no_path_of_the_machine(tiny_model, tmp_path, backbone_folder):
    tiny_model().save_pretrained(tmp_path)
    assert str(backbone_folder("timm_resnet").parent) not in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize("size", [224, 384, 448])
def test_position_embeddings_of_a_vit_are_resampled_to_the_sizes_of_the_paper(size, tmp_path):
    """Weights made for 224 pixels, 14 x 14 patches: at other sizes the embedding is timm's bicubic one."""
    arguments = {"embed_dim": 16, "depth": 1, "num_heads": 2}
    config = AutoConfig.for_model("timm_wrapper", architecture="vit_base_patch16_224", model_args=arguments)
    torch.manual_seed(0)
    source = AutoModel.from_config(config)
    source.save_pretrained(tmp_path / "backbone")
    model = MSLForImageClassification.from_backbone(tmp_path / "backbone", LABELS, image_size=size).eval()
    side = size // 16
    expected = resample_abs_pos_embed(source.timm_model.pos_embed, (side, side), num_prefix_tokens=1)
    torch.testing.assert_close(model.backbone.timm_model.pos_embed, expected)
    model.save_pretrained(tmp_path / "model")
    loaded = MSLForImageClassification.from_pretrained(tmp_path / "model").eval()
    pixels = images(size, size, 1)
    assert torch.equal(loaded(pixels).logits, model(pixels).logits)
    assert loaded.score_maps(pixels).shape == (1, 3, side, side)


@pytest.mark.parametrize("options", [{"num_labels": 2}, {"num_labels": 2, "thresholds": None}, {"thresholds": None}])
def test_thresholds_of_other_classes_are_dropped(options, tiny_model, tmp_path, caplog):
    model = tiny_model()
    model.config.thresholds = [0.2, 0.5, 0.8]
    model.save_pretrained(tmp_path)
    transformers.logging.enable_propagation()
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path, ignore_mismatched_sizes=True, **options)
    assert loaded.config.thresholds is None and loaded.config.num_labels == options.get("num_labels", 3)
    assert ("3 thresholds do not belong to 2 classes; they are dropped" in caplog.text) == (
        options == {"num_labels": 2}
    )
    assert MSLForImageClassification.from_pretrained(tmp_path).config.thresholds == [0.2, 0.5, 0.8]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"csra_lambda": float("nan")}, "csra_lambda must be a number, got nan"),
     ({"id2label": {"0": "cat", "1": "dog", "3": "fish"}}, "id2label has no name for class 2 of 3"),
     ({"id2label": {"0": "cat", "1": "dog", "2": 7}}, "id2label.* 7")],
)  # fmt: skip
def test_damaged_configurations_are_named(wrong, message, tiny_model, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **wrong}))
    with pytest.raises(Exception, match=message):
        MSLForImageClassification.from_pretrained(tmp_path)


def test_sizes_that_patches_do_not_fill_are_refused_with_the_next_ones(tiny_model):
    with pytest.raises(ValueError, match="image_size 50 is no multiple .* of 8 pixels; the next ones are 48 or 56"):
        tiny_model("timm_vit", image_size=50)
    with pytest.raises(ValueError, match="image_size 30 .* the next ones are 24 or 32"):
        tiny_model("hf_vit", image_size=30)
    with pytest.raises(ValueError, match="image_size 5 .* the next ones are 8"):
        tiny_model("timm_vit", image_size=(32, 5))


def test_thresholds_that_are_given_count(tiny_model, tmp_path):
    model = tiny_model()
    model.config.thresholds = [0.2, 0.5, 0.8]
    model.save_pretrained(tmp_path)
    given = {"num_labels": 2, "thresholds": [0.3, 0.4], "ignore_mismatched_sizes": True}
    assert MSLForImageClassification.from_pretrained(tmp_path, **given).config.thresholds == [0.3, 0.4]
