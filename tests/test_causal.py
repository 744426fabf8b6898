"""Causal language modelling: the library's loss on each chunk, on the module that masked LM trains."""

from __future__ import annotations

import copy
import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flash_on_cpu
import launching
import numpy as np
import pytest
import specs
import torch
from test_compile import fresh  # noqa: F401
from test_packing import ARCHITECTURES, IDS, LENGTH, SPECIAL, batch_of, chunks_of, model_for
from torch import nn

from mlm_dist.batches import shapes
from mlm_dist.batches.masking import Masker
from mlm_dist.batches.micro_batch import MicroBatch, Samples, assemble
from mlm_dist.batches.next_tokens import NextTokens
from mlm_dist.config import MaskingConfig, parse
from mlm_dist.corpora import load_or_prepare
from mlm_dist.corpus.row_counts import RowCounts
from mlm_dist.corpus.rows import RowTable
from mlm_dist.errors import ModelError, UserError
from mlm_dist.model import variable_length
from mlm_dist.model.activation_checkpointing import checkpoint_layers
from mlm_dist.model.compilation import compile_forward
from mlm_dist.model.masked_lm import MaskedLanguageModel
from mlm_dist.model.precision import Precision, in_precision
from mlm_dist.model.suitability import require_suited
from mlm_dist.objectives.causal_lm import CausalLM
from mlm_dist.objectives.masked_lm import MaskedLM
from mlm_dist.spec import RowsSpec
from mlm_dist.training.task import Task

# Masks of the model, of its layers, of its kernel, and of its encoder, in turn.
FAST = ("bert", "modernbert", "mpnet", "ultrabert")
REACH = 3  # of ModernBERT's local layers, see test_packing.ARCHITECTURES
DROPOUT: dict[str, Any] = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.3}

Result = tuple[float, dict[str, torch.Tensor]]


def causal_batch(folder: Path, mode: str, num_rows: int | None = None) -> tuple[MicroBatch, RowTable]:
    """The micro-batch of some documents, of up to so many rows."""
    _, table = batch_of(folder, mode)
    samples = np.arange(len(table) if num_rows is None else num_rows)
    return assemble(table, NextTokens(), Samples(np.zeros_like(samples), samples), len(table)), table


def core_of(name: str, *, packed: bool, **changes: Any) -> MaskedLanguageModel:
    """A module in evaluation mode whose attention can be causal, the same at every call."""
    torch.manual_seed(0)
    core = MaskedLanguageModel(model_for(name, **changes), packed=packed)
    core.require_causal()
    return core.eval()


def result_of(core: MaskedLanguageModel, batch: MicroBatch, seed: int = 0) -> Result:
    """The loss of a micro-batch and its gradients by parameter."""
    torch.manual_seed(seed)
    core.zero_grad()
    loss = core(*batch.inputs).loss_sum
    loss.backward()
    return loss.item(), gradients_of(core.model)


def gradients_of(model: nn.Module) -> dict[str, torch.Tensor]:
    named = model.named_parameters()
    return {name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None}


def assert_same(found: Result, expected: Result) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in found[1].items():
        assert (gradient - expected[1][name]).norm() <= 1e-4 * expected[1][name].norm() + 1e-4, name


# --- what is predicted ---


@pytest.mark.parametrize("mode", ["pack", "chunk"])
def test_every_token_but_the_last_of_a_chunk_predicts_the_next_one(mode: str, tmp_path: Path) -> None:
    batch, table = causal_batch(tmp_path, mode)
    true = batch.input_ids.flatten().tolist()
    expected = {i: true[i + 1] for chunk in chunks_of(table) for i in range(chunk.start, chunk.stop - 1)}
    counted = batch.labels >= 0
    found = dict(zip(batch.positions[counted].tolist(), batch.labels[counted].tolist(), strict=True))
    assert found == expected
    assert batch.num_predicted == len(expected) == int(counted.sum())
    assert {SPECIAL.suffix[0]} < set(found.values()) and SPECIAL.pad not in found.values()
    assert SPECIAL.mask not in true, "the input is corrupted"
    assert batch.is_causal and batch.inputs[-1] is True


def test_tokens_of_missing_rows_are_not_predicted(tmp_path: Path) -> None:
    batch, _ = causal_batch(tmp_path, "pack", num_rows=2)
    whole, table = causal_batch(tmp_path, "pack")
    assert batch.input_ids.shape == whole.input_ids.shape
    last = max(batch.positions[batch.labels >= 0].tolist())
    assert LENGTH < last < 2 * LENGTH and batch.num_predicted < whole.num_predicted
    assert shapes.fixed(NextTokens(), table, 4).predicted >= 4 * LENGTH, "a full row does not fit"


def test_rows_that_are_cut_predict_the_same_tokens(tmp_path: Path) -> None:
    """While the length of rows grows, the last position of a piece predicts the first token of the next one."""
    whole, table = causal_batch(tmp_path, "pack")
    samples = np.arange(len(table))
    cut = assemble(table, NextTokens(), Samples(np.zeros_like(samples), samples), len(table), pieces=2)
    assert cut.input_ids.shape == (2 * len(table), LENGTH // 2)
    assert torch.equal(cut.positions, whole.positions) and torch.equal(cut.labels, whole.labels)


def test_chunks_of_one_token_predict_nothing() -> None:
    class Singles:
        """A row with chunks of 1, 3 and 1 tokens, and padding."""

        groups: np.ndarray | None = None
        counts = RowCounts(5, 3, {3: 1})

        def __len__(self) -> int:
            return 1

        def take(self, indices: np.ndarray) -> np.ndarray:
            return np.tile(np.array([7, 8, 9, 10, 11, 0], np.int32), (len(indices), 1))

        def chunks(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return np.tile([1, 3, 1], len(indices)), np.full(len(indices), 3)

        def word_starts(self, indices: np.ndarray) -> np.ndarray:
            raise NotImplementedError

    batch = assemble(Singles(), NextTokens(), Samples(np.zeros(1, np.int64), np.zeros(1, np.int64)), 1)
    counted = batch.labels >= 0
    assert batch.positions[counted].tolist() == [1, 2] and batch.labels[counted].tolist() == [9, 10]


# --- the library's loss ---


def library_twin(name: str, model: Any) -> Any:
    """The library's causal model with the same weights."""
    from transformers import BertLMHeadModel, RobertaForCausalLM

    config = copy.deepcopy(model.config)
    config._attn_implementation = "eager"
    config.is_decoder = True
    twin = {"bert": BertLMHeadModel, "roberta": RobertaForCausalLM}[name](config)
    twin.load_state_dict(model.state_dict())
    return twin.eval()


def with_masks_of_loops(name: str, model: Any) -> Any:
    """The same model called with masks that are made here, token by token."""
    twin = copy.deepcopy(model)
    twin.set_attn_implementation("eager")

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.twin = twin

        def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> Any:
            full, near = (self.mask(input_ids.shape[1], reach) for reach in (10**6, REACH))
            slides = name == "modernbert"
            mask = {"full_attention": full, "sliding_attention": near} if slides else full
            logits = self.twin(input_ids=input_ids, attention_mask=mask).logits
            loss = nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:])
            return type("Output", (), {"loss": loss})()

        @staticmethod
        def mask(length: int, reach: int) -> torch.Tensor:
            hidden = torch.finfo(torch.float32).min
            return torch.tensor(
                [[[[0.0 if 0 <= q - k <= reach else hidden for k in range(length)] for q in range(length)]]]
            )

    return Masked().eval()


@pytest.mark.parametrize("mode", ["pack", "chunk", "full"])
@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("bert", library_twin),
        ("roberta", library_twin),
        ("modernbert", with_masks_of_loops),
        *(
            pytest.param(name, with_masks_of_loops, marks=pytest.mark.slow)
            for name in ("distilbert", "eurobert", "esmc")
        ),
    ],
)
def test_losses_and_gradients_are_the_librarys_on_each_chunk_alone(
    name: str, library: Any, mode: str, tmp_path: Path
) -> None:
    """Of packed rows, of padded ones, and of rows without padding."""
    batch, table = causal_batch(tmp_path, mode.replace("full", "chunk"))
    chunks = chunks_of(table)
    if mode == "full":
        rows = np.array([i for i, chunk in enumerate(chunks) if chunk.stop - chunk.start == LENGTH])
        assert len(rows) > 1
        batch = assemble(table, NextTokens(), Samples(np.zeros_like(rows), rows), len(rows))
        chunks = [slice(i * LENGTH, (i + 1) * LENGTH) for i in range(len(rows))]
    assert (batch.cu_seq_lens is None, batch.attention_mask is None) == (mode != "pack", mode != "chunk")
    model = model_for(name)
    twin = library(name, model)
    total = torch.zeros(())
    true = batch.input_ids.flatten()
    for chunk in chunks:
        alone = true[None, chunk]
        total = total + twin(input_ids=alone, labels=alone).loss * (alone.shape[1] - 1)
    total.backward()  # type: ignore[no-untyped-call]
    expected = {name.removeprefix("twin."): value for name, value in gradients_of(twin).items()}
    core = MaskedLanguageModel(model, packed=mode == "pack").eval()
    core.require_causal()
    found = result_of(core, batch)
    assert found[0] == pytest.approx(total.item(), rel=1e-5)
    assert len(expected) > 10 and expected.keys() == found[1].keys()
    assert_same(found, (total.item(), expected))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
        for name in sorted(ARCHITECTURES)
        if name != "neomme"  # its mask is tried below, in rows that its window does not reach across
    ],
)
def test_no_position_depends_on_tokens_behind_it(name: str, tmp_path: Path) -> None:
    """Nor on other chunks; it does depend on those before it."""
    core = core_of(name, packed=True)
    batch, table = causal_batch(tmp_path, "pack")
    chunks = chunks_of(table)
    everywhere = torch.arange(batch.input_ids.numel())

    def logits(input_ids: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return core.logits(input_ids, None, everywhere, batch.cu_seq_lens, None, True)

    before = logits(batch.input_ids)
    for chunk in [chunk for chunk in chunks if chunk.stop - chunk.start > 4][:3]:
        middle = (chunk.start + chunk.stop) // 2
        changed = batch.input_ids.clone()
        changed.view(-1)[middle] = 9 if int(changed.view(-1)[middle]) != 9 else 10
        change = (logits(changed) - before).abs().amax(1)
        may = (everywhere >= middle) & (everywhere < chunk.stop)
        assert float(change[~may].max()) <= 1e-6 * float(before.abs().max())
        assert float(change[middle + 1]) > 1e-4 * float(before.abs().max())


# --- one module for both objectives ---


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", FAST)
def test_masked_and_causal_micro_batches_take_turns_on_one_module(name: str, packed: bool, tmp_path: Path) -> None:
    """With layers that are recomputed in the backward pass."""
    mode = "pack" if packed else "chunk"
    masked, _ = batch_of(tmp_path, mode)
    causal, _ = causal_batch(tmp_path, mode)
    torch.manual_seed(0)
    never_causal = MaskedLanguageModel(model_for(name), packed=packed).eval()
    expected_masked, expected_causal = result_of(never_causal, masked), result_of(core_of(name, packed=packed), causal)
    assert not math.isclose(expected_masked[0] / masked.num_predicted, expected_causal[0] / causal.num_predicted)
    core = core_of(name, packed=packed)
    checkpoint_layers(core.model)
    for batch, expected in ((masked, expected_masked), (causal, expected_causal), (masked, expected_masked)):
        assert_same(result_of(core, batch), expected)


def test_dropout_of_a_causal_step_follows_from_its_seed(tmp_path: Path) -> None:
    batch, _ = causal_batch(tmp_path, "pack")
    plain, recomputed = (core_of("bert", packed=True, **DROPOUT).train() for _ in range(2))
    checkpoint_layers(recomputed.model)
    one, same, other = (result_of(plain, batch, seed) for seed in (1, 1, 2))
    assert one[0] == same[0] != other[0]
    assert_same(result_of(recomputed, batch, 1), one)


# --- the variable-length kernel ---


@pytest.mark.parametrize("mode", ["pack", "chunk"])
@pytest.mark.parametrize("name", ["bert", "modernbert", pytest.param("eurobert", marks=pytest.mark.slow)])
def test_the_kernel_computes_what_masks_do(name: str, mode: str, tmp_path: Path) -> None:
    batch, _ = causal_batch(tmp_path, mode)
    masked, _ = batch_of(tmp_path, mode)
    expected = result_of(core_of(name, packed=mode == "pack"), batch)
    with flash_on_cpu.kernel() as calls:
        core = core_of(name, packed=mode == "pack")
        before = len(calls.rights)
        found = result_of(core, batch)
        assert set(calls.rights[before:]) == {0}, "the kernel was not causal"
        assert set(calls.windows[before:]) == ({-1, REACH} if name == "modernbert" else {-1})
        assert len(calls.rights) - before == core.model.config.num_hidden_layers
        before = len(calls.rights)
        result_of(core, masked)
        assert 0 not in calls.rights[before:], "masked LM was causal"
    assert_same(found, expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch warns when it imports its compiler
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("how", ["regional", pytest.param("whole", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kernel", [False, True])
@pytest.mark.parametrize(("name", "packed"), [("bert", False), ("modernbert", True)])
def test_compiled_without_a_graph_break(
    name: str,
    packed: bool,
    kernel: bool,
    how: str,
    fresh: None,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Causal and masked micro-batches in turn; each has a graph of its own."""
    mode = "pack" if packed else "chunk"
    causal, _ = causal_batch(tmp_path, mode)
    masked, _ = batch_of(tmp_path, mode)
    plain = core_of(name, packed=packed)
    expected = [result_of(plain, batch) for batch in (causal, masked)]
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, fullgraph=True, backend="aot_eager"))
    with flash_on_cpu.kernel() if kernel else launching.logged():
        core = core_of(name, packed=packed)
        compiled = compile_forward(core, how)
        for _ in range(2):
            for batch, wanted in zip((causal, masked), expected, strict=True):
                assert_same(result_of(core, batch), wanted)
        assert not torch._dynamo.utils.counters["graph_break"]
        assert 1 <= compiled.num_graphs <= 6
        compiled.close()


# --- what cannot be causal ---


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("convbert", {"embedding_size": 16}),
        ("fnet", {}),
        pytest.param("longformer", {"attention_window": [4, 4]}, marks=pytest.mark.slow),
        ("deberta-v2", {"conv_kernel_size": 3, "conv_act": "gelu"}),
    ],
)
def test_architectures_that_see_tokens_behind_are_refused(name: str, changes: dict[str, Any]) -> None:
    model = model_for(name, **changes)
    line = rf"^objective: attention of a {name} model cannot be made causal \(.*\); use --objective masked_lm, or an "
    with pytest.raises(ModelError, match=line):
        require_suited(model.config, RowsSpec("chunk", 64), Precision(), causal=True)
    require_suited(model.config, RowsSpec("chunk", 64), Precision())
    core = MaskedLanguageModel(model)
    with pytest.raises(ModelError, match=line):
        core.require_causal()


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_a_window_that_reaches_one_token_behind_is_found(
    name: str, precision: str, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with in_precision(Precision(precision)):
        core_of(name, packed=packed)
        core = MaskedLanguageModel(model_for(name), packed=packed)
    monkeypatch.setattr(
        variable_length.Window,
        "of",
        classmethod(lambda cls, reach, *, is_causal: cls(reach, 1 if is_causal else reach)),
    )
    with in_precision(Precision(precision)), pytest.raises(ModelError, match="a token sees those behind it"):
        core.require_causal()


def test_a_mask_that_hides_everything_before_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    core = MaskedLanguageModel(model_for("bert"))
    monkeypatch.setattr(
        variable_length.Window, "of", classmethod(lambda cls, reach, *, is_causal: cls(0, 0) if is_causal else cls())
    )
    with pytest.raises(ModelError, match="no token sees those before it"):
        core.require_causal()


# --- the objective ---


def test_validation_is_that_of_masked_lm() -> None:
    masker = Masker(MaskingConfig(), 3, SPECIAL.mask, SPECIAL.all, 120)
    causal, masked = CausalLM(masker), MaskedLM(masker)
    assert causal.validation_corruption == masked.validation_corruption
    assert causal.corruption.is_causal and not causal.validation_corruption.is_causal
    assert causal.terms == ("causal_lm",) and causal.num_sums == masked.num_sums
    sums = [20.0, 3.0, 10.0]
    assert causal.figures(sums) == masked.figures(sums)


def test_the_model_has_the_parameters_of_masked_lm() -> None:
    masker = Masker(MaskingConfig(), 3, SPECIAL.mask, SPECIAL.all, 120)
    modules = [
        kind(masker).module(model_for("bert", **IDS), masked_head=True, packed=True) for kind in (CausalLM, MaskedLM)
    ]
    one, other = (module.state_dict() for module in modules)
    assert list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


FLAGS = ("--objective=causal_lm", *launching.SHORT)


@pytest.fixture(scope="module")
def trained(prose: Path, tmp_path_factory: pytest.TempPathFactory, one_core: None) -> Path:
    """A causal run of one process."""
    run = tmp_path_factory.mktemp("trained") / "run"
    launching.here("train", *FLAGS, *corpus(prose), f"--output_dir={run}")
    return run


def corpus(prose: Path) -> tuple[str, str]:
    return f"--corpus.source={prose}", f"--corpus.cache_dir={prose.parent / 'prose-cache'}"


def losses(run: Path, after: int = 0) -> list[float]:
    return [line["loss"] for line in launching.metrics(run, "train") if line["step"] > after]


def test_a_run_trains_and_validates_as_masked_lm(trained: Path) -> None:
    lines = launching.metrics(trained, "train")
    assert lines[-1]["loss"] < lines[0]["loss"]
    # All tokens but one of each chunk are predicted, and 15% of them in a validation.
    positions = 16 * 64  # of a step
    assert all(0.8 * positions < line["masked_tokens"] < positions for line in lines)
    validated, (start,) = launching.metrics(trained, "validation"), launching.metrics(trained, "start")
    assert 0 < validated[0]["masked_tokens"] < 0.2 * start["validation_rows"] * 64


def test_a_run_resumes_bit_by_bit(trained: Path, prose: Path, tmp_path: Path) -> None:
    resume = f"--checkpoint.resume={trained / 'checkpoints' / 'step-00000006'}"
    launching.here("train", *FLAGS, *corpus(prose), resume, f"--output_dir={tmp_path}")
    assert losses(tmp_path) == losses(trained), "the run takes over the metrics up to its checkpoint"
    assert len(losses(trained, after=6)) == 3
    found, expected = (
        (run / "checkpoints" / "step-00000012" / "model.safetensors").read_bytes() for run in (tmp_path, trained)
    )
    assert found == expected


def test_keys_of_masking_are_reported_as_unused(prose: Path, tmp_path: Path) -> None:
    flags = ("--optim.duration=1 steps", "--masking.probability=0.5", "--validation.every=null")
    done = launching.here("train", *FLAGS, *corpus(prose), *flags, f"--output_dir={tmp_path}")
    assert done.log.count("masking is not used: causal_lm masks nothing in training") == 1


def test_keys_of_masking_that_another_phase_uses_are_not_reported(prose: Path) -> None:
    causal = {"name": "causal", "duration": "1 steps", "objective": "causal_lm"}
    masked = {"name": "masked", "duration": "1 steps", "objective": "masked_lm"}

    def log_of(*phases: Mapping[str, Any]) -> str:
        flags = ("--corpus.validation_fraction=0.2", "--masking.probability=0.5", f"--phases={json.dumps(phases)}")
        spec = specs.spec_of(parse([*corpus(prose), *launching.TINY, *flags]))
        with launching.logged() as log:
            Task.create(spec, load_or_prepare(spec))
        return log.getvalue()

    assert "is not used" not in log_of(causal, masked)
    assert "masking is not used in phase causal" in log_of(causal, masked | {"masking": {"probability": 0.2}})


def test_an_architecture_that_cannot_is_refused_before_the_corpus_is_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^objective: attention of a fnet model"):
        launching.here(
            "plan", *FLAGS, "--model.name_or_path=fnet", f"--output_dir={tmp_path}", "--corpus.source=nowhere"
        )
