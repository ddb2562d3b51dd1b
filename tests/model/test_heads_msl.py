import numpy as np
import pytest
import torch
from timm.layers.ml_decoder import MLDecoder

from msl_hf.model.heads_msl import CSRAHead, LinearHead, MLDecoderHead, multilabel_bce


def csra_by_hand(features: np.ndarray, weights: np.ndarray, lam: float) -> np.ndarray:
    """Class-specific residual attention in plain loops, from the formula."""
    temperatures = {1: [1], 2: [1, 99], 4: [1, 2, 4, 99], 6: [1, 2, 3, 4, 5, 99], 8: [1, 2, 3, 4, 5, 6, 7, 99]}
    logits = np.zeros((len(features), weights.shape[1]))
    for b, x in enumerate(features):
        for weight, temperature in zip(weights, temperatures[len(weights)], strict=True):
            for c, w in enumerate(weight):
                s = np.array([w @ x_k / np.sqrt(w @ w) for x_k in x])
                if temperature == 99:
                    attention = s.max()
                else:
                    p = np.exp(temperature * s)
                    attention = (p / p.sum() * s).sum()
                logits[b, c] += s.mean() + lam * attention
    return logits


@pytest.mark.parametrize("num_heads", [1, 2, 4, 6, 8])
@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_csra_equals_the_formula(num_heads, lam):
    torch.manual_seed(num_heads)
    head = CSRAHead(in_features=7, num_labels=5, num_heads=num_heads, csra_lambda=lam).double()
    features = torch.randn(3, 12, 7, dtype=torch.float64)
    expected = csra_by_hand(features.numpy(), head.weight.detach().numpy(), lam)
    np.testing.assert_allclose(head(features).detach().numpy(), expected, rtol=1e-10)


def test_csra_has_one_weight_for_each_head_and_nothing_else():
    head = CSRAHead(7, 5, num_heads=4)
    assert {name: tuple(value.shape) for name, value in head.state_dict().items()} == {"weight": (4, 5, 7)}


def test_csra_does_not_depend_on_the_length_of_its_weights():
    head = CSRAHead(7, 5, num_heads=2)
    features = torch.randn(2, 9, 7)
    before = head(features)
    with torch.no_grad():
        head.weight.mul_(torch.rand(2, 5, 1) + 0.5)
    torch.testing.assert_close(head(features), before)


def test_csra_refuses_other_numbers_of_heads():
    with pytest.raises(ValueError, match="num_heads"):
        CSRAHead(7, 5, num_heads=3)


@pytest.mark.parametrize("head", [CSRAHead, LinearHead])
def test_weights_begin_uniform_within_one_over_the_root(head):
    """As those of a convolution and of a linear layer in PyTorch: U(-1/4, 1/4) for 16 features."""
    weight = head(16, 4000).weight.detach()
    assert weight.min() == pytest.approx(-0.25, abs=1e-3) and weight.max() == pytest.approx(0.25, abs=1e-3)
    assert weight.mean().item() == pytest.approx(0, abs=5e-3)
    assert weight.std().item() == pytest.approx(0.5 / 12**0.5, rel=0.02)


def test_linear_head_by_hand():
    head = LinearHead(7, 5)
    assert (head.bias == 0).all()
    with torch.no_grad():
        head.bias.add_(torch.arange(5.0))
    features = torch.randn(2, 9, 7)
    weight, bias = head.weight.detach().numpy(), head.bias.detach().numpy()
    expected = [[weight[c] @ np.mean(x, axis=0) + bias[c] for c in range(5)] for x in features.numpy()]
    np.testing.assert_allclose(head(features).detach().numpy(), expected, atol=1e-6)


def test_ml_decoder_drops_out_a_tenth_in_training():
    head = MLDecoderHead(7, 5, 3, hidden_size=16)
    rates = [module.p for module in head.modules() if isinstance(module, torch.nn.Dropout)]
    assert head.attention.dropout == 0.1 and rates == [0.1] * 3


def ml_decoder_by_hand(head, features):
    """ML-Decoder one image, one query and one class at a time."""
    features, size, heads = features.detach().double().numpy(), head.queries.shape[1], head.attention.num_heads
    weights = {name: value.double().numpy() for name, value in head.state_dict().items()}

    def norm(x, name):
        x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    logits = np.zeros((len(features), head.num_labels))
    for b, image in enumerate(features):
        memory = [np.maximum(weights["embed.weight"] @ x + weights["embed.bias"], 0) for x in image]
        for g, query in enumerate(weights["queries"]):
            query = norm(query, "query_norm")
            projections = (
                np.split(weights["attention.in_proj_weight"], 3),
                np.split(weights["attention.in_proj_bias"], 3),
            )
            (wq, wk, wv), (bq, bk, bv) = projections
            q, keys, values = wq @ query + bq, [wk @ m + bk for m in memory], [wv @ m + bv for m in memory]
            attended = []
            for h in range(heads):
                part = slice(h * size // heads, (h + 1) * size // heads)
                scores = np.exp([q[part] @ key[part] / np.sqrt(size // heads) for key in keys])
                attended.append(sum(s * value[part] for s, value in zip(scores / scores.sum(), values, strict=True)))
            out = weights["attention.out_proj.weight"] @ np.concatenate(attended) + weights["attention.out_proj.bias"]
            hidden = norm(query + out, "attention_norm")
            inner = np.maximum(weights["feedforward.0.weight"] @ hidden + weights["feedforward.0.bias"], 0)
            hidden = norm(hidden + weights["feedforward.3.weight"] @ inner + weights["feedforward.3.bias"],
                          "feedforward_norm")  # fmt: skip
            for k in range(weights["weight"].shape[2]):
                label = g * weights["weight"].shape[2] + k
                if label < head.num_labels:
                    logits[b, label] = hidden @ weights["weight"][g, :, k] + weights["bias"][label]
    return logits


@pytest.mark.parametrize("num_groups", [100, 2, 3])
def test_ml_decoder_equals_loops(num_groups):
    head = MLDecoderHead(7, 5, num_groups, hidden_size=16).eval()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    features = torch.randn(2, 9, 7)
    np.testing.assert_allclose(head(features).detach().numpy(), ml_decoder_by_hand(head, features), atol=1e-5)


def test_queries_of_ml_decoder_are_fixed_and_drawn_from_the_unit_normal():
    head = MLDecoderHead(7, 200)
    assert head.queries.shape == (100, 768) and head.weight.shape == (100, 768, 2)
    assert abs(head.queries.std().item() - 1) < 0.02 and "queries" not in dict(head.named_parameters())


@pytest.mark.parametrize(
    "head",
    [
        CSRAHead(7, 5, 2, csra_lambda=0.0),
        LinearHead(7, 5),
        MLDecoderHead(7, 5, 3, hidden_size=16).eval(),
        MLDecoderHead(7, 5, 2, hidden_size=16).eval(),
    ],
)
def test_mean_of_the_class_maps_is_the_logit(head):
    if hasattr(head, "bias"):
        torch.nn.init.normal_(head.bias)
    features = torch.randn(2, 9, 7)
    torch.testing.assert_close(head.class_maps(features).mean(dim=1), head(features))


def test_class_maps_of_ml_decoder_show_where_the_query_of_the_class_looks():
    head, features = MLDecoderHead(7, 5, 2, hidden_size=16).eval(), torch.randn(1, 9, 7)
    maps = head.class_maps(features)[0] / head(features)[0]
    for label, other in ((0, 1), (1, 2), (3, 4)):
        torch.testing.assert_close(maps[:, label], maps[:, other])  # three classes a query
    assert not torch.allclose(maps[:, 2], maps[:, 3])


def test_bce_leaves_ignored_entries_out():
    logits = torch.tensor([[0.0, 2.0], [-1.0, 3.0]], requires_grad=True)
    targets = torch.tensor([[1.0, -100.0], [0.0, 1.0]])
    expected = (np.log(2) + np.log1p(np.exp(-1)) + np.log1p(np.exp(-3))) / 3
    loss = multilabel_bce(logits, targets)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    assert logits.grad[0, 1] == 0 and (logits.grad != 0).sum() == 3


def test_bce_with_everything_ignored_is_zero_with_zero_gradient():
    logits = torch.randn(2, 3, requires_grad=True)
    loss = multilabel_bce(logits, torch.full((2, 3), -100.0))
    loss.backward()
    assert loss.item() == 0 and (logits.grad == 0).all()


def test_ml_decoder_drops_out_of_its_queries_as_published():
    head, seen = MLDecoderHead(7, 5, 3, hidden_size=16).train(), []

    class Halves(torch.nn.Module):
        def forward(self, x):
            return x * (torch.arange(x.shape[-1]) < 8)  # keeps the first half of the channels

    head.dropout = Halves()
    head.attention.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    head(torch.randn(2, 9, 7))
    expected = head.query_norm(head.queries * torch.tensor([2.0] * 8 + [1.0] * 8))
    torch.testing.assert_close(seen[0], expected.expand(2, -1, -1))


def test_ml_decoder_starts_as_published(tiny_model):
    """Every weight has the spread, and every bias the values, of timm's copy of the published head."""
    torch.manual_seed(0)
    head = tiny_model(head="ml_decoder", label_names=[str(index) for index in range(9)]).head
    in_features = head.embed.in_features
    published = MLDecoder(9, initial_num_features=in_features)
    layer = published.decoder.layers[0]
    pairs = {
        "embed": published.embed_standart, "attention.out_proj": layer.multihead_attn.out_proj,
        "feedforward.0": layer.linear1, "feedforward.3": layer.linear2, "query_norm": layer.norm1,
        "attention_norm": layer.norm2, "feedforward_norm": layer.norm3,
    }  # fmt: skip
    both = [(getattr(head.get_submodule(name), kind), getattr(module, kind))
            for name, module in pairs.items() for kind in ("weight", "bias")]  # fmt: skip
    both += [(head.attention.in_proj_weight, layer.multihead_attn.in_proj_weight),
             (head.attention.in_proj_bias, layer.multihead_attn.in_proj_bias),
             (head.weight, published.duplicate_pooling), (head.bias, published.duplicate_pooling_bias)]  # fmt: skip
    for ours, theirs in both:
        assert ours.shape == theirs.shape
        assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.1, abs=1e-6)
        assert ours.abs().max().item() == pytest.approx(theirs.abs().max().item(), rel=0.2, abs=1e-6)
