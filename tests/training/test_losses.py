import numpy as np
import pytest
import torch

from msl_hf import MaskBank, MSLLoss, MSLTrainer, MSLTrainingArguments
from msl_hf.training.losses import (
    AsymmetricLoss,
    LargeLossRejection,
    SelfPacedCorrection,
    balanced_pos_weight,
    make_classification_loss,
)

Z, MASKED_Z = torch.tensor([[0.5, -1.0], [2.0, 0.0]]), torch.tensor([[-0.5, 1.0], [1.0, -3.0]])
Y = torch.tensor([[1.0, 0.0], [1.0, 0.0]])


class Statistics:
    image_mean, image_std = [0.5] * 3, [0.5] * 3


def bce(z: float, y: float) -> float:
    p = 1 / (1 + np.exp(-z))
    return -(y * np.log(p) + (1 - y) * np.log(1 - p))


def sigmoid(z: float) -> float:
    return 1 / (1 + np.exp(-z))


def by_hand(entries) -> dict[str, float]:
    """The three terms of equations 1 and 2 over the given (row, class) entries."""
    z = [Z[entry].item() for entry in entries]
    masked = [MASKED_Z[entry].item() for entry in entries]
    y = [Y[entry].item() for entry in entries]
    return {
        "recognition": np.mean([bce(*pair) for pair in zip(z, y, strict=True)]),
        "masked": np.mean([bce(*pair) for pair in zip(masked, y, strict=True)]),
        "consistency": np.mean([(sigmoid(a) - sigmoid(b)) ** 2 for a, b in zip(z, masked, strict=True)]),
    }


ALL = [(0, 0), (0, 1), (1, 0), (1, 1)]


@pytest.mark.parametrize("weights", [(0.3, 0.2, 0.5), (1, 1, 1), (0.5, 0, 0.5), (0.6, 0.4, 0)])
def test_loss_equals_equation_1(weights):
    losses = MSLLoss(weights)(Z, MASKED_Z, Y)
    expected = by_hand(ALL)
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-5)
    assert losses["loss"].item() == pytest.approx(np.dot(weights, list(expected.values())), rel=1e-5)


def test_one_number_written_out():
    # z = 0, z' = ln 3, y = 1: ln 2, ln(4/3), and (1/2 - 3/4)^2 = 1/16.
    losses = MSLLoss()(torch.zeros(1, 1), torch.full((1, 1), float(np.log(3))), torch.ones(1, 1))
    assert losses["loss"].item() == pytest.approx(0.3 * np.log(2) + 0.2 * np.log(4 / 3) + 0.5 / 16, rel=1e-6)


def test_ignored_entries_leave_all_three_terms():
    labels = Y.clone()
    labels[0, 1] = -100
    losses = MSLLoss()(Z, MASKED_Z, labels)
    for name, value in by_hand([(0, 0), (1, 0), (1, 1)]).items():
        assert losses[name].item() == pytest.approx(value, rel=1e-5)


def test_nothing_left_is_zero_with_zero_gradient():
    z = Z.clone().requires_grad_()
    losses = MSLLoss()(z, MASKED_Z, torch.full_like(Y, -100))
    losses["loss"].backward()
    assert losses["loss"].item() == 0 and (z.grad == 0).all()


def test_consistency_sends_gradients_into_both_branches():
    z, masked = Z.clone().requires_grad_(), MASKED_Z.clone().requires_grad_()
    MSLLoss((0.0, 0.0, 1.0))(z, masked, Y)["loss"].backward()
    expected = 2 * (Z.sigmoid() - MASKED_Z.sigmoid()) * Z.sigmoid() * (1 - Z.sigmoid()) / 4
    torch.testing.assert_close(z.grad, expected)
    assert (masked.grad != 0).all()


def test_classification_loss_is_exchangeable():
    asl = AsymmetricLoss()
    labels = Y.clone()
    labels[1, 1] = -100
    losses = MSLLoss(classification_loss=asl)(Z, MASKED_Z, labels)
    assert losses["recognition"].item() == pytest.approx(asl(Z, Y).flatten()[:3].mean().item(), rel=1e-6)
    assert losses["recognition"].item() != pytest.approx(by_hand(ALL[:3])["recognition"], rel=1e-2)


def test_plain_training_needs_no_masked_logits():
    loss = MSLLoss((1, 0, 0))
    assert not loss.needs_masked_branch
    assert set(loss(Z, None, Y)) == {"loss", "recognition"}
    with pytest.raises(ValueError, match="masked branch"):
        MSLLoss()(Z, None, Y)


@pytest.mark.parametrize("weights", [(1, 0), (0, 0, 0), (1, -1, 1)])
def test_senseless_weights_are_refused(weights):
    with pytest.raises(ValueError, match="three numbers"):
        MSLLoss(weights)


def test_half_precision_logits_are_computed_in_float32():
    losses = MSLLoss()(Z.bfloat16(), MASKED_Z.bfloat16(), Y.bfloat16())
    assert losses["loss"].dtype == torch.float32


def test_balanced_pos_weight_counts_both_sides():
    parts = [torch.tensor([[1.0, 0.0, 0.0], [0.0, -100.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, -100.0]])]
    assert balanced_pos_weight(torch.cat(parts)).tolist() == [3.0, 2.0, 1.0]  # the third class has no positive
    several = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    assert balanced_pos_weight(several).tolist() == [0.5, 1.0, 0.5]  # the second one no negative


def test_pos_weight_multiplies_the_positive_term():
    loss = make_classification_loss("bce", [3.0, 0.5])(Z, Y)
    for row, column in ALL:
        factor = [3.0, 0.5][column] if Y[row, column] else 1.0
        assert loss[row, column].item() == pytest.approx(factor * bce(Z[row, column].item(), Y[row, column].item()))


def test_pos_weight_of_integers_and_for_other_numbers_of_images():
    three = torch.cat([Z, Z[:1]]), torch.cat([Y, Y[:1]])
    loss = make_classification_loss("bce", [3, 1])(*three)
    torch.testing.assert_close(loss, make_classification_loss("bce", [3.0, 1.0])(*three))
    assert loss.dtype == torch.float32 and loss.shape == (3, 2)
    with pytest.raises(ValueError, match="3 factors in pos_weight for 2 classes"):
        make_classification_loss("bce", [1.0, 2.0, 3.0])(*three)


def test_names_of_losses():
    torch.testing.assert_close(make_classification_loss("bce")(Z, Y)[0, 1].item(), bce(-1.0, 0.0))


def asl(z: float, y: float, gamma_neg: float, gamma_pos: float, clip: float) -> tuple[float, float]:
    """The asymmetric loss of an entry and its derivative, with the focusing weight held fixed as in its training."""
    p = sigmoid(z)
    if y == 1:
        return -((1 - p) ** gamma_pos) * np.log(p), -((1 - p) ** gamma_pos) * (1 - p)
    shifted = max(p - clip, 0)
    weight = shifted**gamma_neg
    return -weight * np.log(1 - shifted), weight * p * (1 - p) / (1 - shifted) if p > clip else 0.0


@pytest.mark.parametrize("settings", [(4, 0, 0.05), (2, 1, 0.2), (3, 0.5, 0)])
def test_asymmetric_loss_as_it_is_trained(settings):
    logits = torch.tensor([[0.5, -1.0, -4.0], [2.0, 0.0, 3.0]], requires_grad=True)
    targets = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    names = ("asl_gamma_neg", "asl_gamma_pos", "asl_clip")
    chosen = {} if settings == (4, 0, 0.05) else dict(zip(names, settings, strict=True))
    losses = make_classification_loss("asl", **chosen)(logits, targets)
    losses.sum().backward()
    for entry in np.ndindex(2, 3):
        value, derivative = asl(logits[entry].item(), targets[entry].item(), *settings)
        assert losses[entry].item() == pytest.approx(value, rel=1e-4, abs=1e-7)
        assert logits.grad[entry].item() == pytest.approx(derivative, rel=1e-4, abs=1e-7)


def test_settings_of_the_asymmetric_loss_reach_the_trainer(tmp_path):
    args = MSLTrainingArguments(str(tmp_path), classification_loss="asl", asl_gamma_neg=2, asl_gamma_pos=1, asl_clip=0)
    loss = MSLTrainer(torch.nn.Linear(1, 1), args, MaskBank.patches(), Statistics()).loss.classification_loss
    assert (loss.gamma_neg, loss.gamma_pos, loss.clip) == (2, 1, 0)
    with pytest.raises(ValueError, match="asl_clip is a probability below 1, got 1.5"):
        MSLTrainingArguments(str(tmp_path), asl_clip=1.5)


def test_focal_loss_by_hand():
    loss = make_classification_loss("focal")(Z, Y)
    for entry in ALL:
        p = sigmoid(Z[entry].item())
        expected = -0.25 * (1 - p) ** 2 * np.log(p) if Y[entry] else -0.75 * p**2 * np.log(1 - p)
        assert loss[entry].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "pos_weight", "message"),
    [
        ("asl", [1.0, 2.0], "belongs to the loss 'bce'"),
        ("bce", [1.0, 0.0], "positive factor"),
        ("bce", [1.0], "1 fac"),
    ],
)
def test_wrong_pos_weight(name, pos_weight, message):
    with pytest.raises(ValueError, match=message):
        make_classification_loss(name, pos_weight)(Z, Y)


def test_large_loss_rejection_written_out():
    """delta 1/6 of six entries: none in the first epoch, one zero in the second, two in the third."""
    logits = torch.tensor([[2.0, -1.0, 0.5], [1.0, 3.0, -2.0]])
    targets = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    plain = np.array([[bce(z, y) for z, y in zip(*rows, strict=True)]
                      for rows in zip(logits.tolist(), targets.tolist(), strict=True)])  # fmt: skip
    loss = LargeLossRejection(delta=1 / 6)
    for epoch, rejected in enumerate([[], [(0, 0)], [(0, 0), (1, 0)]]):  # zeros by loss: log(1 + e^2), log(1 + e), ...
        expected = plain.copy()
        for entry in rejected:
            expected[entry] = 0
        loss.set_epoch(epoch)
        np.testing.assert_allclose(loss(logits, targets).numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(loss.eval()(logits, targets).numpy(), plain, rtol=1e-5)


def test_large_loss_rejection_gives_no_gradient_where_it_rejects():
    logits = torch.tensor([[2.0, -1.0]], requires_grad=True)
    loss = LargeLossRejection(delta=0.5)
    loss.set_epoch(1)
    loss(logits, torch.zeros(1, 2)).sum().backward()
    assert logits.grad[0, 0] == 0 and logits.grad[0, 1] == pytest.approx(sigmoid(-1), rel=1e-5)


def test_ignored_entries_are_not_what_is_rejected():
    """The ignored entry has the largest loss of all, and the one zero that may be rejected is the next."""
    loss = LargeLossRejection(delta=0.25)
    loss.set_epoch(1)
    logits, labels = torch.tensor([[9.0, 1.0], [-1.0, 0.5]]), torch.tensor([[-100.0, 0.0], [0.0, 1.0]])
    expected = (bce(-1, 0) + bce(0.5, 1)) / 3
    assert MSLLoss((1, 0, 0), loss)(logits, None, labels)["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_self_paced_correction_written_out():
    """margin 1, gamma 2: the logit of a given label loses 1; a zero above 0.6 is a one from the second epoch on."""
    z, y = [1.5, 1.0, -1.0], [1.0, 0.0, 0.0]
    p = sigmoid(0.5), sigmoid(1.0), sigmoid(-1.0)
    given, wrong, right = (
        -((1 - p[0]) ** 2) * np.log(p[0]),
        -(p[1] ** 2) * np.log(1 - p[1]),
        -(p[2] ** 2) * np.log(1 - p[2]),
    )
    corrected = -((1 - p[1]) ** 2) * np.log(p[1])
    loss = SelfPacedCorrection()
    for epoch, expected in ((0, [given, wrong, right]), (1, [given, corrected, right])):
        loss.set_epoch(epoch)
        np.testing.assert_allclose(loss(torch.tensor([z]), torch.tensor([y]))[0].numpy(), expected, rtol=1e-5)
    assert loss.eval()(torch.tensor([z]), torch.tensor([y]))[0, 1].item() == pytest.approx(wrong, rel=1e-5)


@pytest.mark.parametrize(("name", "kind"), [("ll_r", LargeLossRejection), ("splc", SelfPacedCorrection)])
def test_losses_for_missing_labels_by_name(name, kind):
    assert isinstance(make_classification_loss(name), kind)
