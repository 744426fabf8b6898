"""The variable-length kernel computes what masks do: packed rows, padding, sliding attention, and dropout."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flash_on_cpu
import numpy as np
import pytest
import torch
from flash_on_cpu import Calls
from test_compile import fresh  # noqa: F401
from test_packing import LENGTH, batch_of, model_for
from torch.nn import functional as F

from mlm_dist.batches import shapes
from mlm_dist.batches.masking import Masker
from mlm_dist.batches.micro_batch import MicroBatch, Samples, assemble
from mlm_dist.config import MaskingConfig
from mlm_dist.corpus.row_counts import RowCounts
from mlm_dist.model import precision, variable_length
from mlm_dist.model.activation_checkpointing import checkpoint_layers
from mlm_dist.model.compilation import compile_forward
from mlm_dist.model.masked_lm import MaskedLanguageModel

# With grouped keys, windows of two sizes, and windows with a mask of the model's own.
NAMES = ("bert", "roberta", "modernbert", "eurobert", "neomme", "ultrabert", "gte", "distilbert")
FAST = ("bert", "modernbert")
DROPOUT: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.3}


@pytest.fixture
def kernel() -> Iterator[Calls]:
    with flash_on_cpu.kernel() as calls:
        yield calls


def some(name: str) -> Any:
    return pytest.param(name, marks=() if name in FAST else pytest.mark.slow)


def core_of(name: str, *, packed: bool = True, **changes: Any) -> MaskedLanguageModel:
    """The same model at every call."""
    torch.manual_seed(0)
    changes = {"head_dim": 16} | changes if name == "neomme" else changes
    return MaskedLanguageModel(model_for(name, **changes), packed=packed)


def loss_and_gradients(core: MaskedLanguageModel, batch: MicroBatch, seed: int = 0) -> tuple[float, torch.Tensor]:
    torch.manual_seed(seed)
    core.zero_grad()
    loss = core(*batch.inputs).loss_sum
    loss.backward()
    gradients = [parameter.grad.flatten() for parameter in core.parameters() if parameter.grad is not None]
    return loss.item(), torch.cat(gradients)


def assert_same(found: tuple[float, torch.Tensor], expected: tuple[float, torch.Tensor]) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert (found[1] - expected[1]).norm() <= 1e-4 * expected[1].norm()


@pytest.mark.parametrize("mode", ["pack", "chunk"])
@pytest.mark.parametrize("name", [some(name) for name in NAMES])
def test_losses_and_gradients_are_those_of_masks(name: str, mode: str, tmp_path: Path) -> None:
    """Packed rows have empty chunks at the end of the list; rows of one chunk have padding."""
    batch, _ = batch_of(tmp_path, mode)
    changes: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "dropout": 0.0}
    expected = loss_and_gradients(core_of(name, packed=mode == "pack", **changes).eval(), batch)
    with flash_on_cpu.kernel() as calls:
        found = loss_and_gradients(core_of(name, packed=mode == "pack", **changes).eval(), batch)
    assert_same(found, expected)
    layers = core_of(name).model.config.num_hidden_layers
    assert len(calls.windows) == layers, "a layer used a mask"
    slides = {"modernbert": {-1, 3}, "neomme": {-1, 3, 1024}, "ultrabert": {-1, 3}}
    assert set(calls.windows) == slides.get(name, {-1})


def test_no_mask_is_built_where_the_kernel_reads_none(kernel: Calls, tmp_path: Path) -> None:
    batch, _ = batch_of(tmp_path, "pack")
    for name in FAST:
        core = core_of(name)
        arguments = core._chunks.arguments(batch.input_ids, None, batch.cu_seq_lens, batch.longest)
        mask = arguments.get("attention_mask")
        assert mask is None or set(mask.values()) == {None}
        assert "chunk_mask" not in arguments


def test_full_attention_without_padding_needs_no_lengths(kernel: Calls) -> None:
    """torch's own attention is as fast there; ModernBERT's sliding layers take the kernel."""
    ids, positions = torch.randint(5, 120, (2, LENGTH)), torch.arange(0, 2 * LENGTH, 5)
    for name, windows in (("bert", []), ("modernbert", [-1, 3, 3, -1])):
        calls_before = len(kernel.windows)
        core_of(name, packed=False)(ids, None, positions, ids.flatten()[positions])
        assert len(kernel.windows) - calls_before == len(windows)


def test_attention_dropout_follows_from_the_seed_alone(kernel: Calls, tmp_path: Path) -> None:
    batch, _ = batch_of(tmp_path, "pack")
    core = core_of("bert", **DROPOUT).train()
    one, same, other = (loss_and_gradients(core, batch, seed) for seed in (1, 1, 2))
    assert set(kernel.dropouts) == {0.3}
    assert one[0] == same[0] != other[0] and torch.equal(one[1], same[1])
    assert kernel.seeds[:2] == kernel.seeds[2:4] != kernel.seeds[4:], "layers, then passes"
    assert kernel.seeds[0] != kernel.seeds[1]
    assert kernel.backward_seeds[:2] == kernel.seeds[:2][::-1], "the backward pass has another mask"


def test_gradients_belong_to_the_mask_that_dropout_drew(kernel: Calls) -> None:
    """Compared with autograd through the formula, with the mask that the forward pass had."""
    torch.manual_seed(3)
    query, key, value = (torch.randn(2, 4, 12, 8, requires_grad=True) for _ in range(3))
    starts = torch.tensor([0, 5, 5, 12, 20, 24, 24], dtype=torch.int32)
    found = variable_length.attend(query, key, value, starts, 12, dropout=0.4, window=variable_length.Window(4, 4))
    weights = torch.randn_like(found)
    gradients = torch.autograd.grad((found * weights).sum(), (query, key, value))

    flat = [states.transpose(1, 2).flatten(0, 1) for states in (query, key, value)]
    state = torch.tensor(kernel.seeds[0])
    probabilities, keep = flash_on_cpu.parts(flat[0], flat[1], starts, None, (4, 4), state, 0.4)
    assert float((keep == 0).float().mean()) == pytest.approx(0.4, abs=0.03)
    expected = torch.einsum("hqk,khd->qhd", probabilities * keep, flat[2]).view(2, 12, 4, 8)
    torch.testing.assert_close(found, expected)
    for one, other in zip(gradients, torch.autograd.grad((expected * weights).sum(), (query, key, value)), strict=True):
        torch.testing.assert_close(one, other)


def test_dropout_keeps_the_mean(kernel: Calls) -> None:
    torch.manual_seed(0)
    query = key = torch.zeros(8, 4, 32, 8)
    ones = torch.ones(8, 4, 32, 8)
    found = variable_length.attend(query, key, ones, torch.arange(9, dtype=torch.int32) * 32, 32, dropout=0.25)
    assert float(found.mean()) == pytest.approx(1, abs=0.01)
    assert float(found.std()) == pytest.approx((0.25 / 0.75 / 32) ** 0.5, rel=0.1)


def test_recomputed_layers_draw_the_same_mask(kernel: Calls, tmp_path: Path) -> None:
    batch, _ = batch_of(tmp_path, "pack")
    plain, recomputed = (core_of("bert", **DROPOUT).train() for _ in range(2))
    expected = loss_and_gradients(plain, batch)
    before = len(kernel.seeds)
    checkpoint_layers(recomputed.model)
    found = loss_and_gradients(recomputed, batch)
    seeds = kernel.seeds[before:]
    assert len(seeds) == 4 and seeds[:2] == seeds[:1:-1], "the last layer is recomputed first"
    assert found[0] == expected[0]
    torch.testing.assert_close(found[1], expected[1])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch warns when it imports its compiler
# torch warns when it inspects the arguments of a compiled layer.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("how", ["regional", pytest.param("whole", marks=pytest.mark.slow)])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", ["bert", "roberta", "modernbert"])
def test_compiled_without_a_graph_break(
    name: str,
    packed: bool,
    how: str,
    kernel: Calls,
    fresh: None,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """With attention dropout, and padding where rows are not packed."""
    batch, _ = batch_of(tmp_path, "pack" if packed else "chunk")
    changes = {"attention_dropout": 0.3} if name == "modernbert" else DROPOUT
    expected = loss_and_gradients(core_of(name, packed=packed, **changes).train(), batch)
    before = list(kernel.seeds)
    core = core_of(name, packed=packed, **changes).train()
    # Not inductor, which compiles C++ code for each of these.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, fullgraph=True, backend="aot_eager"))
    compiled = compile_forward(core, how)
    found = loss_and_gradients(core, batch)
    assert_same(found, expected)
    assert kernel.seeds[len(before) :] == before
    kinds = 1 if how == "whole" or name != "modernbert" else 3  # full, sliding, and the first layer without a norm
    assert compiled.num_graphs == kinds
    assert not torch._dynamo.utils.counters["graph_break"]
    loss_and_gradients(core, batch)
    assert compiled.num_graphs == kinds
    compiled.close()


def test_masks_for_other_gpus_are_additive_and_built_once(
    kernel: Calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Heads of 12 do not fit the kernel; the mask is in the precision of the products, which autocast sets."""
    monkeypatch.setattr(precision, "working_dtype", lambda kind, dtype: torch.bfloat16 if kind == "meta" else dtype)
    batch, _ = batch_of(tmp_path, "pack")
    batch = batch.map(lambda tensor: tensor.to("meta"))
    for name in FAST:
        core = core_of(name, hidden_size=24).to(torch.device("meta"))
        arguments = core._chunks.arguments(batch.input_ids, None, batch.cu_seq_lens, None)
        mask = arguments["attention_mask"]
        masks = list(mask.values()) if isinstance(mask, dict) else [mask]
        assert {one.dtype for one in masks} == {torch.bfloat16}
        assert {one.shape for one in masks} == {(len(batch.input_ids), 1, LENGTH, LENGTH)}


class Packed:
    """Rows of 512 positions: mostly ten chunks of 50 tokens, a few of 100 chunks of 5, and one with one chunk."""

    lengths = ([50] * 10, [5] * 100, [37])

    groups: np.ndarray | None = None

    @property
    def counts(self) -> RowCounts:
        return RowCounts.of(*self.chunks(np.arange(1000)))

    def __len__(self) -> int:
        return 1000

    def kind(self, indices: np.ndarray) -> list[list[int]]:
        return [self.lengths[2 if i == 7 else 1 if i % 100 == 1 else 0] for i in indices.tolist()]

    def take(self, indices: np.ndarray) -> np.ndarray:
        return np.full((len(indices), 512), 9, np.int32)

    def chunks(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = self.kind(indices)
        return np.concatenate(found), np.array([len(one) for one in found])

    def word_starts(self, indices: np.ndarray) -> np.ndarray:
        return np.ones((len(indices), 512), bool)


MASKER = Masker(MaskingConfig(probability=0.15), 1, 4, (0, 1, 2, 3, 4), 200)


def micro_batch(indices: list[int], filled_to: shapes.Shapes, pieces: int = 1) -> MicroBatch:
    wanted = Samples(np.zeros(len(indices), np.int64), np.array(indices))
    return assemble(Packed(), MASKER, wanted, len(indices), filled_to, pieces)


def test_the_kernel_gets_the_longest_chunk_and_a_usual_number_of_chunks() -> None:
    found = shapes.fixed(MASKER, Packed(), 64)
    assert found.longest == 128, "chunks of 50 tokens, in tiles of 128"
    # A row has 12 chunks on average with padding, with a deviation of 9; 64 rows with the most would have 6,400.
    assert 64 * 12 < found.chunks < 64 * 12 + 5 * 9 * 8 + 32
    usual = micro_batch([*range(20, 84)], found)
    rare = micro_batch([1 + 100 * (i % 10) for i in range(64)], found)
    assert usual.cu_seq_lens is not None and rare.cu_seq_lens is not None
    assert len(usual.cu_seq_lens) == found.chunks < len(rare.cu_seq_lens)
    assert usual.longest == rare.longest == 128
    assert int(rare.cu_seq_lens.diff().gt(0).sum()) == 64 * 101


@pytest.mark.parametrize(("chunk", "pieces"), [(150, 1), (30, 4)])
def test_padding_has_room_among_the_chunks(chunk: int, pieces: int) -> None:
    """All rows have two chunks of so many tokens, and padding that is cut into so many pieces."""

    class Alike(Packed):
        lengths = ([chunk] * 2,) * 3

    found = shapes.fixed(MASKER, Alike(), 64)
    wanted = Samples(np.zeros(64, np.int64), np.arange(64))
    batch = assemble(Alike(), MASKER, wanted, 64, found)
    assert batch.cu_seq_lens is not None and len(batch.cu_seq_lens) == found.chunks
    assert int(batch.cu_seq_lens.diff().gt(0).sum()) == 64 * (2 + pieces)


def test_padding_is_cut_so_that_no_chunk_is_longer_than_the_longest() -> None:
    found = shapes.fixed(MASKER, Packed(), 2)
    batch = micro_batch([7, 20], found)
    assert batch.cu_seq_lens is not None
    lengths = batch.cu_seq_lens.diff()
    assert lengths[lengths > 0].tolist() == [37, 128, 128, 128, 91, *[50] * 10, 12]
    cut = micro_batch([7, 20], found, pieces=16)
    assert cut.longest == 32 and cut.cu_seq_lens is not None and int(cut.cu_seq_lens.diff().max()) <= 32


def test_positions_that_fill_up_are_spread() -> None:
    batch = micro_batch([20, 21], shapes.Shapes(predicted=512))
    filler = batch.positions[batch.labels < 0]
    assert len(filler) > 300 and len(set(filler.tolist())) == len(filler)
    assert int(filler.min()) == 0 and int(filler.max()) > 1000


def test_the_loss_ignores_positions_that_fill_up(tmp_path: Path) -> None:
    batch, _ = batch_of(tmp_path, "chunk")
    core = core_of("bert", packed=False).eval()
    wanted = batch.labels >= 0
    logits = core.logits(batch.input_ids, batch.attention_mask, batch.positions[wanted])
    expected = F.cross_entropy(logits, batch.labels[wanted], reduction="sum")
    torch.testing.assert_close(core(*batch.inputs).loss_sum, expected)
