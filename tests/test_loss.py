"""The loss and the precision of norms under autocast."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mlm_dist.model import loss
from mlm_dist.model.norms import lower_norms


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("rows_at_a_time", [1, 7, 100])
def test_summed_cross_entropy_equals_torchs(
    kind: torch.dtype, rows_at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "BLOCK_LOGITS", rows_at_a_time * 50)
    torch.manual_seed(0)
    logits = (torch.randn(40, 50) * 30).to(kind).requires_grad_()
    labels = torch.randint(0, 50, (40,))
    labels[[3, 39]] = -100
    expected = F.cross_entropy(logits.float(), labels, reduction="sum")
    found = loss.summed_cross_entropy(logits, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    (theirs,) = torch.autograd.grad(expected * 0.37, logits)
    (ours,) = torch.autograd.grad(found * 0.37, logits)
    assert ours.dtype == kind
    torch.testing.assert_close(ours, theirs, rtol=1.6e-2 if kind == torch.bfloat16 else 1e-5, atol=1e-6)
    assert not ours[[3, 39]].any()


def test_loss_of_very_wrong_logits_is_finite() -> None:
    logits = torch.tensor([[0.0, 1e4, -1e4]])
    assert float(loss.summed_cross_entropy(logits, torch.tensor([2]))) == pytest.approx(2e4)


def test_norms_lower_their_precision_under_autocast_only() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embeddings = nn.Sequential(nn.LayerNorm(4))
            self.norm = nn.LayerNorm(4)

        @property
        def base_model(self) -> nn.Module:
            return self

    model = Model()
    lower_norms(model)
    values = torch.randn(2, 4)
    assert model.norm(values).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert model.norm(values).dtype == torch.bfloat16
        assert model.embeddings(values).dtype == torch.float32


def test_gradient_of_a_confident_token_survives_bf16() -> None:
    logits = torch.zeros(1, 300, dtype=torch.bfloat16)
    logits[0, 7] = 16.0
    logits.requires_grad_()
    (ours,) = torch.autograd.grad(loss.summed_cross_entropy(logits, torch.tensor([7])), logits)
    (theirs,) = torch.autograd.grad(F.cross_entropy(logits.float(), torch.tensor([7]), reduction="sum"), logits)
    assert float(ours[0, 7]) == pytest.approx(float(theirs[0, 7]), rel=5e-2)
