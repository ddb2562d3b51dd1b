"""Heads that turn local features into class scores, and the binary cross-entropy that honours ignored labels.

A head takes features at locations, (B, L, D), so that every backbone layout looks the same to it.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

IGNORED = -100.0  # target of an entry that counts neither as positive nor as negative

# Temperatures of the heads by their number (Zhu and Wu 2021); 99 stands for the maximum over the locations.
TEMPERATURES = {1: [1], 2: [1, 99], 4: [1, 2, 4, 99], 6: [1, 2, 3, 4, 5, 99], 8: [1, 2, 3, 4, 5, 6, 7, 99]}


class CSRAHead(nn.Module):
    """Class-specific residual attention (Zhu and Wu, ICCV 2021), all heads in one matrix product.

    With s[b, k, c] = w_c . x[b, k] / ||w_c||, head h scores
    `mean_k s + csra_lambda * sum_k softmax_k(T_h * s) * s`, and the logit is the sum over heads. Every head has its
    own weight; there is no bias, and features are not normalised.

    Args:
        in_features: D.
        num_labels: C.
        num_heads: 1, 2, 4, 6 or 8; the temperatures follow from it.
        csra_lambda: Weight of the attention term.

    Examples:
        >>> head = CSRAHead(in_features=16, num_labels=5, num_heads=2)
        >>> head(torch.randn(3, 49, 16)).shape
        torch.Size([3, 5])
    """

    def __init__(self, in_features: int, num_labels: int, num_heads: int = 1, csra_lambda: float = 0.1):
        super().__init__()
        if num_heads not in TEMPERATURES:
            raise ValueError(f"num_heads must be one of {tuple(TEMPERATURES)}, got {num_heads}")
        self.num_heads = num_heads
        self.num_labels = num_labels
        self.csra_lambda = csra_lambda
        bound = 1 / math.sqrt(in_features)  # as a 1x1 convolution is initialised; it sets the size of the gradients
        self.weight = nn.Parameter(torch.empty(num_heads, num_labels, in_features).uniform_(-bound, bound))

    @torch.no_grad()
    def copy_rows(self, other: "CSRAHead", rows: list[int | None]) -> None:
        """Take over the weights of class `rows[i]` of another head for class i; None keeps what is here."""
        for index, row in enumerate(rows):
            if row is not None:
                self.weight[:, index] = other.weight[:, row]

    def score_maps(self, features: torch.Tensor) -> torch.Tensor:
        """(B, L, D) features -> (B, L, num_heads, C) scores s of every head at every location."""
        scores = F.linear(features, F.normalize(self.weight, dim=-1).flatten(0, 1))
        return scores.unflatten(-1, (self.num_heads, self.num_labels))

    def class_maps(self, features: torch.Tensor) -> torch.Tensor:
        """(B, L, D) features -> (B, L, C): scores summed over heads; their mean over L is the logit at lambda 0."""
        return self.score_maps(features).sum(dim=2)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, L, D) features -> (B, C) logits."""
        scores = self.score_maps(features)
        if not self.csra_lambda:
            return scores.mean(dim=1).sum(dim=1)
        temperatures = TEMPERATURES[self.num_heads]
        # The maximum is the last head where there are several.
        num_soft = len(temperatures) - (temperatures[-1] == 99)
        soft = scores[:, :, :num_soft]
        tempered = soft if num_soft == 1 else soft * soft.new_tensor(temperatures[:num_soft]).view(-1, 1)
        attention = (tempered.softmax(dim=1) * soft).sum(dim=1).sum(dim=1)
        if num_soft < len(temperatures):
            attention = attention + scores[:, :, -1].amax(dim=1)
        return scores.mean(dim=1).sum(dim=1) + self.csra_lambda * attention


class MLDecoderHead(nn.Module):
    """ML-Decoder (Ridnik et al., WACV 2023): queries look at the locations, each answers for a group of classes.

    One decoder layer without self-attention: fixed queries drawn from N(0, 1), which are never trained, attend to the
    features; a linear layer of its own for each query gives the logits of its group. Dropout and initialisation are
    those of the published code.

    Args:
        in_features: D.
        num_labels: C.
        num_groups: Number of queries, at most C; each answers for ceil(C / num_groups) classes.
        hidden_size: Width of the decoder.

    Examples:
        >>> MLDecoderHead(in_features=16, num_labels=5)(torch.randn(3, 49, 16)).shape
        torch.Size([3, 5])
    """

    def __init__(self, in_features: int, num_labels: int, num_groups: int = 100, hidden_size: int = 768):
        super().__init__()
        num_groups = min(num_groups, num_labels)
        self.num_labels = num_labels
        self.embed = nn.Linear(in_features, hidden_size)
        self.register_buffer("queries", torch.randn(num_groups, hidden_size))
        self.query_norm = nn.LayerNorm(hidden_size)
        self.attention = nn.MultiheadAttention(hidden_size, num_heads=8, dropout=0.1, batch_first=True)
        self.dropout = nn.Dropout(0.1)
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.feedforward = nn.Sequential(
            nn.Linear(hidden_size, 2048), nn.ReLU(), nn.Dropout(0.1), nn.Linear(2048, hidden_size), nn.Dropout(0.1)
        )
        self.feedforward_norm = nn.LayerNorm(hidden_size)
        group_size = math.ceil(num_labels / num_groups)
        self.weight = nn.Parameter(nn.init.xavier_normal_(torch.empty(num_groups, hidden_size, group_size)))
        self.bias = nn.Parameter(torch.zeros(num_labels))

    @torch.no_grad()
    def copy_rows(self, other: "MLDecoderHead", rows: list[int | None]) -> None:
        """Take over what all classes share, and for class i the row of class `rows[i]`; None keeps what is here.

        With a query for each class it moves along. Where several classes share one, a class that comes to another
        query keeps its row as no more than a start.
        """
        own = ("weight", "bias", "queries")
        self.load_state_dict({k: v for k, v in other.state_dict().items() if k not in own}, strict=False)
        size, other_size = self.weight.shape[-1], other.weight.shape[-1]
        if max(size, other_size) > 1 and self.queries.shape == other.queries.shape:
            self.queries.copy_(other.queries)
        for index, row in enumerate(rows):
            if row is not None:
                if size == other_size == 1:
                    self.queries[index] = other.queries[row]
                self.weight[index // size, :, index % size] = other.weight[row // other_size, :, row % other_size]
                self.bias[index] = other.bias[row]

    def _decode(self, features: torch.Tensor, need_weights: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B, L, D) features -> (B, C) logits, and the queries' (B, groups, L) attention, which sums to 1 over L."""
        memory = F.relu(self.embed(features))
        queries = self.queries.expand(len(features), -1, -1)
        queries = self.query_norm(queries + self.dropout(queries))
        attended, attention = self.attention(queries, memory, memory, need_weights=need_weights)
        hidden = self.attention_norm(queries + self.dropout(attended))
        hidden = self.feedforward_norm(hidden + self.feedforward(hidden))
        logits = torch.einsum("bgd,gdk->bgk", hidden, self.weight).flatten(1)[:, : self.num_labels]
        return logits + self.bias, attention

    def class_maps(self, features: torch.Tensor) -> torch.Tensor:
        """(B, L, D) features -> (B, L, C): each logit spread over what its query looks at; the mean is the logit."""
        logits, attention = self._decode(features, need_weights=True)
        attention = attention.repeat_interleave(self.weight.shape[-1], dim=1)[:, : self.num_labels]
        return attention.transpose(1, 2) * features.shape[1] * logits.unsqueeze(1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, L, D) features -> (B, C) logits."""
        return self._decode(features, need_weights=False)[0]


class LinearHead(nn.Module):
    """Global average pooling and one linear layer: the plain classifier of Table 13.

    Args:
        in_features: D.
        num_labels: C.
    """

    def __init__(self, in_features: int, num_labels: int):
        super().__init__()
        bound = 1 / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.empty(num_labels, in_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(num_labels))

    @torch.no_grad()
    def copy_rows(self, other: "LinearHead", rows: list[int | None]) -> None:
        """Take over the weights of class `rows[i]` of another head for class i; None keeps what is here."""
        for index, row in enumerate(rows):
            if row is not None:
                self.weight[index], self.bias[index] = other.weight[row], other.bias[row]

    def class_maps(self, features: torch.Tensor) -> torch.Tensor:
        """(B, L, D) features -> (B, L, C) class activation maps; their mean over L is the logit."""
        return F.linear(features, self.weight, self.bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, L, D) features -> (B, C) logits."""
        return F.linear(features.mean(dim=1), self.weight, self.bias)


def mean_over_valid(losses: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean of (B, C) losses over the entries whose target is not ignored (-100); nothing left gives 0, gradient 0."""
    valid = targets != IGNORED
    return losses.masked_fill(~valid, 0.0).sum() / valid.sum().clamp(min=1)


def multilabel_bce(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy with logits, averaged over the entries that are not ignored, computed in float32.

    Args:
        logits: (B, C).
        targets: (B, C) with values in [0, 1], or -100 where the entry is ignored.

    Returns:
        A scalar; 0 with gradient 0 where every entry is ignored.
    """
    losses = F.binary_cross_entropy_with_logits(
        logits.float(), targets.float().masked_fill(targets == IGNORED, 0.0), reduction="none"
    )
    return mean_over_valid(losses, targets)
