import evaluate
import numpy as np
import pytest
import torch
from transformers import EvalPrediction

from msl_hf import multilabel_metrics
from msl_hf.evaluation.evaluate_metric import MultilabelMetric
from msl_hf.evaluation.metrics import average_precisions, metrics_from_logits, probabilities


def average_precision_by_hand(scores, truths) -> float:
    """Sum over thresholds (ties share one) of precision times the gain in recall, in plain loops."""
    positives, result, last_recall = sum(truths), 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        chosen = [truth for score, truth in zip(scores, truths, strict=True) if score >= threshold]
        recall = sum(chosen) / positives
        result += sum(chosen) / len(chosen) * (recall - last_recall)
        last_recall = recall
    return result


def metrics_by_hand(scores, targets, threshold=0.5) -> dict[str, float]:
    rows, classes = len(scores), len(scores[0])
    aps, precisions, recalls = [], [], []
    hits = predicted = positives = 0
    for c in range(classes):
        entries = [(scores[r][c], targets[r][c]) for r in range(rows) if targets[r][c] != -100]
        tp = sum(1 for s, t in entries if s >= threshold and t == 1)
        pp = sum(1 for s, t in entries if s >= threshold)
        p = sum(1 for s, t in entries if t == 1)
        hits, predicted, positives = hits + tp, predicted + pp, positives + p
        if p:
            aps.append(average_precision_by_hand(*zip(*entries, strict=True)))
            precisions.append(tp / pp if pp else 0.0)
            recalls.append(tp / p)
    cp, cr = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    op, or_ = hits / predicted if predicted else 0.0, hits / positives

    def f1(a, b):
        return 2 * a * b / (a + b) if a + b else 0.0

    return {"mAP": sum(aps) / len(aps), "CP": cp, "CR": cr, "CF1": f1(cp, cr), "OP": op, "OR": or_, "OF1": f1(op, or_)}


@pytest.mark.parametrize("seed", range(8))
def test_equal_to_brute_force_with_ties_ignored_and_empty_classes(seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, (25, 7)) / 5  # many ties
    targets = rng.choice([0, 1, -100], (25, 7), p=[0.6, 0.25, 0.15])
    targets[:, 3] = np.where(targets[:, 3] == 1, 0, targets[:, 3])  # a class without positives
    targets[:, 5] = 0
    scores[:, 4] = 0.1  # a class without predictions
    expected = metrics_by_hand(scores.tolist(), targets.tolist())
    assert multilabel_metrics(scores, targets) == pytest.approx(expected, rel=1e-12)


def test_a_number_written_out():
    # Ranking by score: positive, negative, positive: AP = (1/1 + 2/3) / 2.
    scores, targets = np.array([[0.9], [0.8], [0.6]]), np.array([[1], [0], [1]])
    metrics = multilabel_metrics(scores, targets)
    assert metrics["mAP"] == pytest.approx(5 / 6)
    assert (metrics["OP"], metrics["OR"], metrics["CF1"]) == pytest.approx((2 / 3, 1.0, 0.8))


def test_threshold_is_inclusive_and_may_differ_by_class():
    scores, targets = np.array([[0.5, 0.4], [0.2, 0.9]]), np.array([[1, 1], [0, 0]])
    assert multilabel_metrics(scores, targets)["OR"] == 0.5
    assert multilabel_metrics(scores, targets, threshold=np.array([0.5, 0.4]))["OR"] == 1.0


def test_classes_without_positives_have_no_average_precision():
    result = average_precisions(np.array([[0.1, 0.2], [0.3, 0.4]]), np.array([[1, 0], [0, 0]]))
    assert result[0] == 0.5 and np.isnan(result[1])


def test_monotonous_changes_of_the_scores_leave_map_alone():
    rng = np.random.default_rng(0)
    scores, targets = rng.random((40, 5)), rng.integers(0, 2, (40, 5))
    assert multilabel_metrics(scores**3, targets)["mAP"] == pytest.approx(multilabel_metrics(scores, targets)["mAP"])


@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        ([[2.0, -1.0]], [[1, 0]], "got -1 to 2; apply the sigmoid"),
        ([[1.5, 0.0]], [[1, 0]], "got 0 to 1.5"),
        ([[1.0, -0.1]], [[1, 0]], "got -0.1 to 1"),
        ([[np.nan, np.nan], [np.nan, 0.5], [0.1, 0.1]], [[1, 0]] * 3, "NaN in 2 of 3 rows"),
        ([[0.5, 0.5]], [[2, 0]], r"targets must be 0, 1 or -100 \(ignored\), got \[0 2\]|got \[0. 2.\]"),
        ([[0.5, 0.5]], [[0, -100]], "^targets hold no positive"),
        ([[0.5, 0.5]], [[1]], r"\(1, 2\) and \(1, 1\)"),
    ],
)
def test_bad_input_is_refused(scores, targets, message):
    with pytest.raises(ValueError, match=message):
        multilabel_metrics(np.array(scores), np.array(targets))


def test_one_prediction_and_none():
    scores, targets = np.array([[0.9, 0.2], [0.1, 0.3]]), np.array([[1, 0], [1, 0]])
    assert multilabel_metrics(scores, targets)["OP"] == 1  # of one prediction
    with np.errstate(invalid="raise", divide="raise"):
        none = multilabel_metrics(scores / 2, targets)
    assert [none[name] for name in ("CP", "CR", "CF1", "OP", "OR", "OF1")] == [0] * 6 and none["mAP"] == 1


def test_precision_and_recall_may_be_equal():
    found = multilabel_metrics(np.array([[0.9, 0.9], [0.1, 0.1]]), np.array([[1, 0], [0, 1]]))
    assert found["OP"] == found["OR"] == found["OF1"] == 0.5


def test_scores_of_half_precision_and_lists():
    scores, targets = [[0.75, 0.25], [0.5, 0.5]], [[1, 0], [0, 1]]
    expected = multilabel_metrics(np.array(scores), np.array(targets))
    assert multilabel_metrics(scores, targets) == expected
    assert multilabel_metrics(np.array(scores, np.float16), np.array(targets, np.int8)) == expected
    assert probabilities(np.float16([0.1])).dtype == np.float64
    assert metrics_from_logits(EvalPrediction(predictions=np.float16([[3, -3]]), label_ids=[[1, 0]]))["OF1"] == 1


def test_from_logits_is_the_sigmoid_even_for_huge_logits():
    logits, targets = np.array([[1000.0, -1000.0], [0.5, -0.5]], dtype=np.float32), np.array([[1, 0], [0, 1]])
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        metrics = metrics_from_logits(EvalPrediction(predictions=logits, label_ids=targets))
    expected = multilabel_metrics(torch.tensor(logits).sigmoid().numpy(), targets)
    assert metrics == pytest.approx(expected)


def test_evaluate_metric_gives_the_same_batch_by_batch():
    rng = np.random.default_rng(1)
    scores, targets = rng.random((12, 4)).astype(np.float32), rng.choice([0, 1, -100], (12, 4))
    metric = MultilabelMetric()
    assert isinstance(metric, evaluate.Metric)
    for rows in (slice(0, 5), slice(5, 12)):
        metric.add_batch(predictions=scores[rows], references=targets[rows])
    assert metric.compute() == pytest.approx(multilabel_metrics(scores, targets))
    assert metric.compute(predictions=scores, references=targets, threshold=0.3) == pytest.approx(
        multilabel_metrics(scores, targets, 0.3)
    )


def test_top_k_predicts_those_of_the_best_labels_that_reach_the_threshold():
    scores = np.array([[0.9, 0.8, 0.6, 0.2], [0.7, 0.2, 0.6, 0.8]])
    targets = np.array([[1, 0, 1, 0], [0, 1, 1, -100]])
    # Top two: image 0 predicts labels 0 and 1; in image 1 the ignored label 3 is the best, and 0 the second.
    found = multilabel_metrics(scores, targets, top_k=2)
    assert (found["OP"], found["OR"]) == (1 / 3, 1 / 4)
    assert found["CP"] == pytest.approx((1 / 2 + 0 + 0) / 3) and found["CR"] == pytest.approx(1 / 3)
    # The second labels, 0.8 and 0.7, fall below 0.85 and count no longer: label 0 of image 0 alone is left.
    assert multilabel_metrics(scores, targets, 0.85, top_k=2)["OP"] == 1
    counted = multilabel_metrics(scores, targets, top_k=1, count_ignored_as="negative")
    assert (counted["OP"], counted["OR"]) == (1 / 2, 1 / 4)
    tied = multilabel_metrics(np.full((2, 4), 0.5), targets, top_k=1)  # the last of each: labels 3 (ignored in 1)
    assert (tied["OP"], tied["OR"]) == (0, 0)
    everything = multilabel_metrics(scores, targets, top_k=4)
    assert everything == multilabel_metrics(scores, targets)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"top_k": 0}, "top_k must be a whole number"), ({"top_k": 1.5}, "top_k must be a whole number"),
     ({"top_k": True}, "got True"),  ({"threshold": 50}, "threshold is a probability in .*, got 50"),
     ({"threshold": float("nan")}, "got nan"), ({"threshold": np.array([0.5, -1.0])}, "threshold is a probability")],
)  # fmt: skip
def test_senseless_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        multilabel_metrics(np.array([[0.9, 0.2]]), np.array([[1, 0]]), **options)


def test_ignored_entries_may_count_as_negative_in_precision_alone():
    scores, targets = np.array([[0.9, 0.8], [0.6, 0.7]]), np.array([[1, -100], [0, 1]])
    strict, reference = (multilabel_metrics(scores, targets, count_ignored_as=how) for how in ("ignore", "negative"))
    assert strict["OP"] == pytest.approx(2 / 3) and reference["OP"] == pytest.approx(2 / 4)
    assert strict["mAP"] == reference["mAP"] == 1
    with pytest.raises(ValueError, match="count_ignored_as"):
        multilabel_metrics(scores, targets, count_ignored_as="positive")
