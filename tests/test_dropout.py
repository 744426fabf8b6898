"""Dropout masks: a function of the row's key, of the right share, and the same in the forward and backward pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mlm_dist.model import attention
from mlm_dist.model.dropout import RowDropout, RowMasks, install, select

KEYS = torch.from_numpy(np.random.default_rng(0).integers(0, 2**63, 8))


def begun(keys: torch.Tensor | None = KEYS) -> RowMasks:
    masks = RowMasks()
    masks.begin(keys)
    return masks


def kept(masks: RowMasks, *shape: int, p: float = 0.1) -> torch.Tensor:
    keep = masks.draw(torch.Size(shape), p)
    assert keep is not None and keep.shape == shape and set(keep.flatten().tolist()) <= {-1, 0}
    return keep == -1


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_share_of_dropped_elements(p: float) -> None:
    keep = kept(begun(), 8, 400, 500, p=p)
    deviation = (p * (1 - p) / keep.numel()) ** 0.5
    assert abs(1 - p - keep.double().mean()) < 5 * deviation


def test_masks_of_elements_rows_and_uses_are_independent() -> None:
    masks = begun()
    one, other = kept(masks, 8, 100_000, p=0.5), kept(masks, 8, 100_000, p=0.5)
    pairs = [(one[:, 1:], one[:, :-1]), (one[1:], one[:-1]), (one, other), (one[:, 4:], one[:, :-4])]
    for left, right in pairs:
        agree = (left == right).double().mean()
        assert abs(agree - 0.5) < 5 * 0.5 / left.numel() ** 0.5


def test_masks_of_a_row_do_not_depend_on_the_batch_or_its_order() -> None:
    whole, reversed_, part = begun(), begun(KEYS.flip(0)), begun(KEYS[2:5])
    for _ in range(3):
        expected = kept(whole, 8, 12, 33)
        assert torch.equal(kept(reversed_, 8, 12, 33), expected.flip(0))
        assert torch.equal(kept(part, 3, 12, 33), expected[2:5])


def test_no_mask_if_the_rows_are_unknown() -> None:
    assert begun(None).draw(torch.Size([8, 4]), 0.1) is None
    assert begun().draw(torch.Size([1, 4]), 0.1) is None
    assert begun().draw(torch.Size([16, 4]), 0.1) is None


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_dropped_elements_are_zero_forward_and_backward(kind: torch.dtype) -> None:
    layer = RowDropout(0.25, begun())
    values = torch.randn(8, 6, 40).to(kind).requires_grad_()
    found = layer(values)
    keep = kept(begun(), 8, 6, 40, p=0.25)
    expected = torch.where(keep, values / 0.75, 0)
    precision = 1e-2 if kind.itemsize == 2 else 1e-6
    torch.testing.assert_close(found, expected, rtol=precision, atol=precision)
    gradient = torch.randn_like(found)
    (ours,) = torch.autograd.grad(found, values, gradient)
    torch.testing.assert_close(ours, torch.where(keep, gradient / 0.75, 0), rtol=precision, atol=precision)
    assert layer.eval()(values) is values


def test_select_ignores_dropped_values() -> None:
    values = torch.tensor([1.5, -2.0, float("inf"), float("nan")])
    found = select(values, torch.tensor([-1, 0, 0, 0], dtype=torch.int8))
    assert found.tolist() == [1.5, 0.0, 0.0, 0.0]


def test_every_plain_dropout_of_a_model_is_replaced() -> None:
    class Own(nn.Dropout):
        pass

    model = nn.Sequential(nn.Dropout(0.1), nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.3)), Own(0.2))
    install(model, RowMasks())
    kinds = [(type(module), module.p) for module in model.modules() if isinstance(module, nn.Dropout)]
    assert kinds == [(RowDropout, 0.1), (RowDropout, 0.3), (Own, 0.2)]


@pytest.mark.parametrize("masked", [None, "padding", "additive"])
@pytest.mark.parametrize("p", [0.0, 0.2])
def test_attention_follows_its_formula(p: float, masked: str | None) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(8, 3, 10, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    mask = None
    if masked is not None:
        seen = torch.rand(8, 1, 10, 10) < 0.7
        seen |= torch.eye(10, dtype=torch.bool)
        mask = seen if masked == "padding" else torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen, -1e9)
    layer = nn.Module()
    layer.is_causal = False  # type: ignore[assignment]
    layer.row_masks = begun()  # type: ignore[assignment]
    found, _ = attention.attend(layer, query, key, value, mask, dropout=p, scaling=0.3)

    scores = query @ key.transpose(2, 3) * 0.3
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    probabilities = scores.softmax(-1)
    if p:
        probabilities = probabilities * kept(begun(), 8, 3, 10, 10, p=p) / (1 - p)
    expected = (probabilities @ value).transpose(1, 2)
    torch.testing.assert_close(found, expected)
    gradient = torch.randn_like(expected)
    ours = torch.autograd.grad(found, (query, key, value), gradient)
    for one, other in zip(ours, torch.autograd.grad(expected, (query, key, value), gradient), strict=True):
        torch.testing.assert_close(one, other)


def test_padding_that_attends_to_nothing_is_finite() -> None:
    query = torch.randn(2, 1, 4, 4, requires_grad=True)
    layer = nn.Module()
    layer.is_causal = False  # type: ignore[assignment]
    found, _ = attention.attend(layer, query, query, query, torch.zeros(2, 1, 4, 4, dtype=torch.bool))
    assert torch.isfinite(found).all()


def test_causal_attention_is_left_to_torch() -> None:
    query = torch.randn(2, 1, 5, 4)
    layer = nn.Module()
    layer.is_causal = True  # type: ignore[assignment]
    found, _ = attention.attend(layer, query, query, query, None)
    expected = F.scaled_dot_product_attention(query, query, query, is_causal=True)
    torch.testing.assert_close(found, expected.transpose(1, 2))


def test_attention_under_autocast_accepts_queries_and_keys_in_fp32() -> None:
    """Rotary positions leave them in fp32, and the backward pass runs outside autocast."""
    query, key = (torch.randn(8, 2, 6, 4, requires_grad=True) for _ in range(2))
    value = torch.randn(8, 2, 6, 4, dtype=torch.bfloat16, requires_grad=True)
    layer = nn.Module()
    layer.is_causal = False  # type: ignore[assignment]
    layer.row_masks = begun()  # type: ignore[assignment]
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = attention.attend(layer, query, key, value, None, dropout=0.1)
    gradients = torch.autograd.grad(found.float().sum(), (query, key, value))
    assert found.dtype == torch.bfloat16
    assert [one.dtype for one in gradients] == [torch.float32, torch.float32, torch.bfloat16]
