"""The same metrics as an `evaluate.Metric`, in a file of its own because it needs `evaluate`."""

import datasets
import evaluate

from .metrics import multilabel_metrics

_DESCRIPTION = "mAP, CP, CR, CF1, OP, OR and OF1 of multi-label classification; targets of -100 are ignored."


class MultilabelMetric(evaluate.Metric):
    """`multilabel_metrics` with `add_batch` and `compute`.

    Predictions are lists of C probabilities, references lists of C targets (1, 0, or -100 = ignored). Give each
    process of a distributed evaluation `num_process` and `process_id` as for every `evaluate.Metric`.

    Examples:
        >>> metric = MultilabelMetric()
        >>> metric.add_batch(predictions=[[0.9, 0.2], [0.6, 0.8]], references=[[1, 0], [0, 1]])
        >>> metric.compute()["mAP"]
        1.0
    """

    def _info(self) -> evaluate.MetricInfo:
        row = datasets.Sequence(datasets.Value("float32"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            features=datasets.Features({"predictions": row, "references": row}),
        )

    def _compute(self, predictions, references, threshold: float = 0.5) -> dict[str, float]:
        return multilabel_metrics(predictions, references, threshold)
