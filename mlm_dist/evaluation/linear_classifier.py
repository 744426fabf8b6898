"""A linear classifier on frozen features: logistic regression with an L2 penalty."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

STRENGTH = 1.0  # of the penalty: C of scikit-learn is its inverse
MAX_ITERATIONS = 200
TOLERANCE = 1e-5  # of the gradient of the mean loss


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
        present, targets = np.unique(labels, return_inverse=True)
        fitted = _minimum((features - mean) / scale, np.eye(len(present))[targets])
        weights, bias = np.zeros((num_labels, features.shape[1])), np.full(num_labels, -np.inf)
        weights[present], bias[present] = fitted[:, :-1], fitted[:, -1]
        return cls(mean, scale, weights, bias)

    def predict(self, features: np.ndarray) -> np.ndarray:
        """[examples] the index of the label with the highest score."""
        scores = ((features - self.mean) / self.scale) @ self.weights.T + self.bias
        predicted: np.ndarray = scores.argmax(1)
        return predicted


def _minimum(features: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """[labels, features + 1] the best weights and, last, the bias.

    Args:
        features: [examples, features] standardized.
        targets: [examples, labels] 1 for the label of each, else 0.
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    shape = (targets.shape[1], features.shape[1] + 1)

    def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = flat.reshape(shape)[:, :-1], flat.reshape(shape)[:, -1]
        log_probabilities = log_softmax(features @ weights.T + bias, axis=1)
        errors = np.exp(log_probabilities) - targets
        gradient = np.hstack([errors.T @ features + STRENGTH * weights, errors.sum(0)[:, None]])
        loss = STRENGTH / 2 * (weights**2).sum() - (log_probabilities * targets).sum()
        return loss / len(targets), gradient.ravel() / len(targets)

    options = {"maxiter": MAX_ITERATIONS, "gtol": TOLERANCE, "ftol": 1e-12}
    found = minimize(loss_and_gradient, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B", options=options)
    best: np.ndarray = found.x.reshape(shape)
    return best
