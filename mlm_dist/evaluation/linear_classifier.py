"""A linear classifier on frozen features: logistic regression with an L2 penalty."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

STRENGTH = 1.0  # of the penalty: C of scikit-learn is its inverse
MAX_ITERATIONS = 200


class LinearClassifier(NamedTuple):
    """Scores of labels, linear in standardized features.

    Args:
        mean: [features] of the training examples.
        scale: [features] their standard deviations; 1 for a constant.
        weights: [labels, features].
        bias: [labels].
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    bias: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray, labels: np.ndarray, num_labels: int) -> LinearClassifier:
        """Minimize the summed cross-entropy plus half of the squared weights, without the bias, by L-BFGS in fp64.

        Features are standardized first: the mean-pooled states of an encoder have a large common part and a few large
        features, which would otherwise decide how strong the penalty is. The result depends on the arguments only.

        Args:
            features: [examples, features].
            labels: [examples] the index of the label of each.
            num_labels: Number of labels; one without examples is never predicted.
        """
        mean, scale = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
        scale = np.where(scale > 1e-12, scale, 1.0)
        inputs = torch.from_numpy((features - mean) / scale)
        targets = torch.from_numpy(labels.astype(np.int64))
        is_absent = torch.bincount(targets, minlength=num_labels) == 0
        weights = torch.zeros(num_labels, inputs.shape[1], dtype=torch.float64, requires_grad=True)
        bias = torch.zeros(num_labels, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [weights, bias], max_iter=MAX_ITERATIONS, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
        )

        def loss() -> torch.Tensor:
            optimizer.zero_grad()
            scores = (inputs @ weights.T + bias).masked_fill(is_absent, -torch.inf)
            penalty = STRENGTH / 2 * weights.square().sum()
            total = (functional.cross_entropy(scores, targets, reduction="sum") + penalty) / len(targets)
            total.backward()  # type: ignore[no-untyped-call]
            return total

        with torch.enable_grad():
            optimizer.step(loss)  # type: ignore[no-untyped-call]
        final = bias.detach().masked_fill(is_absent, -torch.inf)
        return cls(mean, scale, weights.detach().numpy(), final.numpy())

    def predict(self, features: np.ndarray) -> np.ndarray:
        """[examples] the index of the label with the highest score."""
        scores = ((features - self.mean) / self.scale) @ self.weights.T + self.bias
        predicted: np.ndarray = scores.argmax(1)
        return predicted
