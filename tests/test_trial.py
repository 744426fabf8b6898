"""The trial of a model: as the run will be, without a trace, with the reason of every refusal."""

from __future__ import annotations

import copy
import random
import subprocess
import sys
from typing import Any

import launching
import numpy as np
import pytest
import torch
from test_model import model_of
from transformers import CONFIG_MAPPING

from mlm_dist.errors import ModelError
from mlm_dist.model import buffers, packed_attention, small_copy, trial
from mlm_dist.model.inference import undone
from mlm_dist.model.masked_lm import MaskedLanguageModel
from mlm_dist.model.packed_attention import STYLES, PackedAttention
from mlm_dist.model.precision import Precision, in_precision
from mlm_dist.model.suitability import suitability

BIRD: dict[str, Any] = {
    **{"attention_type": "block_sparse", "block_size": 4, "num_random_blocks": 1, "max_position_embeddings": 128},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "sep_token_id": 3},
}
IDS = {"pad_token_id": 0, "mask_token_id": 4}


def state_of(model: Any) -> tuple[Any, ...]:
    """What a trial may not change."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    modules = [(name, type(module), module.training) for name, module in model.named_modules()]
    grads = [parameter.grad is None for parameter in model.parameters()]
    of_numpy: Any = np.random.get_state()
    numbers = random.getstate(), of_numpy[1].tolist(), torch.get_rng_state().tolist()
    return modules, {k: v.tolist() for k, v in buffers.items()}, grads, numbers, copy.deepcopy(model.config.to_dict())


@pytest.mark.parametrize(("name", "changes"), [("bert", {}), ("big_bird", BIRD), ("ibert", {"quant_mode": True})])
def test_a_trial_leaves_no_trace(name: str, changes: dict[str, Any]) -> None:
    model = model_of(name, **changes).train()
    before = state_of(model)
    trial.require_forward(model)
    trial.require_forward(model, backward=True)
    packed = PackedAttention(model, STYLES[0])
    packed_attention.fault(model, packed)
    packed.remove()
    assert state_of(model) == before


class Normalized(torch.nn.Module):
    """Embeddings with batch normalization, whose running statistics change in training."""

    def __init__(self, embeddings: torch.nn.Module, hidden_size: int) -> None:
        super().__init__()
        self.embeddings, self.norm = embeddings, torch.nn.BatchNorm1d(hidden_size)

    def forward(self, *arguments: Any, **named: Any) -> torch.Tensor:
        normal: torch.Tensor = self.norm(self.embeddings(*arguments, **named).transpose(1, 2)).transpose(1, 2)
        return normal


def test_a_model_whose_buffers_change_in_training_is_refused() -> None:
    """Checkpoints would lose them. I-BERT's change without an effect, unless it is quantized."""
    model = model_of("bert")
    model.bert.embeddings = Normalized(model.bert.embeddings, model.config.hidden_size)
    before = state_of(model)
    with pytest.raises(ModelError, match=r"bert\.embeddings\.norm\.running_mean of a bert model changes in training"):
        buffers.require_constant(model, 16)
    assert state_of(model) == before
    with pytest.raises(ModelError, match=r"of a ibert model changes in training .*I-BERT's is quant_mode"):
        MaskedLanguageModel(model_of("ibert", quant_mode=True))
    MaskedLanguageModel(model_of("ibert"))


def test_short_rows_do_not_change_the_attention_of_big_bird() -> None:
    """transformers exchanges it for full attention, for good; the loss would depend on the rows before."""
    core = MaskedLanguageModel(model_of("big_bird", **BIRD)).eval()
    assert core.model.bert.attention_type == "block_sparse"
    long, short = torch.randint(5, 120, (2, 64)), torch.randint(5, 120, (2, 8))
    positions = torch.tensor([3, 7])
    before = core.logits(long, None, positions)
    core.logits(short, None, positions)
    assert torch.equal(core.logits(long, None, positions), before)
    assert core.has_unused() in (True, False) and core.model.bert.attention_type == "block_sparse"


def test_big_bird_packs_where_its_rows_have_full_attention() -> None:
    config = CONFIG_MAPPING["big_bird"](**model_of("big_bird", **BIRD).config.to_dict())
    assert suitability(config, 28).style is not None  # (5 + 2 * 1) blocks of 4 tokens have full attention
    assert suitability(config, 64).style is None


def test_weights_that_are_nan_are_named() -> None:
    model = model_of("roberta", pad_token_id=1)
    with torch.no_grad():
        model.roberta.encoder.layer[1].output.dense.weight[3, 5] = float("nan")
    with pytest.raises(ModelError, match=r"not finite: 1 of its weights .* roberta\.encoder\.layer\.1\.output\.dense"):
        MaskedLanguageModel(model, packed=True)


def test_finite_weights_that_overflow_are_named() -> None:
    model = model_of("bert")
    with torch.no_grad():
        model.cls.predictions.transform.LayerNorm.weight.fill_(3e38)
        model.cls.predictions.transform.LayerNorm.bias.fill_(3e38)
    with pytest.raises(ModelError, match="too large"):
        MaskedLanguageModel(model)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", [RuntimeError, KeyError, ZeroDivisionError, NotImplementedError])
def test_a_fault_in_the_forward_pass_is_named_with_its_reason(packed: bool, kind: type[Exception]) -> None:
    model = model_of("bert")

    def fail(*_: Any) -> None:
        raise kind("the flux capacitor is empty")

    model.bert.encoder.layer[0].register_forward_pre_hook(fail)
    with pytest.raises(ModelError, match=r"^model\.name_or_path: a bert model fails .*the flux capacitor is empty"):
        MaskedLanguageModel(model, packed=packed)


def test_logits_at_other_positions_are_refused() -> None:
    model = model_of("bert")
    model.bert.register_forward_hook(
        lambda module, given, output: type(output)(last_hidden_state=output.last_hidden_state[:, :-1])
    )
    with pytest.raises(ModelError, match=r"logits at \d+ positions for rows of \d+ tokens"):
        MaskedLanguageModel(model)


@pytest.mark.parametrize("precision", [Precision("bf16"), Precision("bf16", True), Precision("fp16")])
@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_the_trial_runs_in_the_precision_of_the_run(name: str, precision: Precision) -> None:
    """Packing and the masked head still pass there, and the forward passes of the trial did have it."""
    model = model_of(name, **IDS)
    seen = set()

    def see(module: Any, given: Any, output: torch.Tensor) -> None:
        seen.add(output.dtype)

    model.get_output_embeddings().register_forward_hook(see)
    with in_precision(precision):
        core = MaskedLanguageModel(model, packed=True)
    assert core.masked_head and seen == {torch.float32, precision.dtype}
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_deberta_is_refused_under_autocast_but_not_with_lower_weights() -> None:
    config = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
    with in_precision(Precision("bf16")), pytest.raises(ModelError, match=r'^mixed_precision: a deberta .*"no"'):
        MaskedLanguageModel(model_of("deberta", **config))
    with in_precision(Precision("bf16", rounds_weights=True)):
        MaskedLanguageModel(model_of("deberta", **config))


def test_overflow_in_a_lower_precision_is_not_called_a_packing_problem() -> None:
    model = model_of("bert", **IDS)
    with torch.no_grad():
        model.bert.encoder.layer[1].intermediate.dense.bias.fill_(1e5)  # more than fp16 holds
        model.bert.encoder.layer[1].output.dense.weight.mul_(1e-4)
    MaskedLanguageModel(copy.deepcopy(model), packed=True)
    with in_precision(Precision("fp16")), pytest.raises(ModelError, match=r"^mixed_precision: .* not finite in fp16"):
        MaskedLanguageModel(model, packed=True)


@pytest.mark.parametrize("precision", [Precision(), Precision("bf16"), Precision("bf16", True)])
@pytest.mark.parametrize("reach", [1, 30])
def test_a_small_leak_between_chunks_is_seen_in_every_precision(precision: Precision, reach: int) -> None:
    """A thousandth of the hidden state `reach` tokens before; with bf16's rounding, less than a logit's own error."""
    model = model_of("bert", **IDS)

    def leak(module: Any, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        return output + 1e-3 * output.roll(reach, 1) if output.shape[1] > 20 else output

    model.bert.embeddings.register_forward_hook(leak)
    with in_precision(precision), pytest.raises(ModelError, match="cannot keep the chunks"):
        MaskedLanguageModel(model, packed=True)


def test_what_begins_at_zero_is_tried_with_random_weights() -> None:
    """NeoMME's attention adds nothing at first: with fresh weights every mask would seem right."""
    config = CONFIG_MAPPING["neomme"](
        **{"vocab_size": 120, "embedding_rank": 16, "hidden_size": 32, "intermediate_size": 48},
        **{"num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16},
        **{"sliding_window": 4},
    )
    model = small_copy.small_model(small_copy.small_configuration(config))
    assert all(parameter.abs().max() > 0 for parameter in model.parameters() if parameter.numel())


def test_a_small_copy_has_each_kind_of_layer() -> None:
    config = CONFIG_MAPPING["modernbert"](hidden_size=32, num_attention_heads=2, intermediate_size=48)
    small = small_copy.small_configuration(config)
    assert config.num_hidden_layers == 22 and small.num_hidden_layers == 4  # the first has no norm
    assert set(small.layer_types) == set(config.layer_types) == {"full_attention", "sliding_attention"}
    assert small.vocab_size <= 128 and 0 <= small.pad_token_id < small.vocab_size
    assert (small.hidden_size, small.sliding_window) == (config.hidden_size, config.sliding_window)


@pytest.mark.parametrize(
    ("name", "changes", "pattern"),
    [
        ("bart", {}, "encoder-decoder"),
        ("modernvbert", {}, "reads images"),
        ("xmod", {}, r"model\.overrides\.default_language: .*en_XX"),
        ("perceiver", {"d_latents": 32, "d_model": 32, "num_latents": 4}, "2048 positions for rows of 32 tokens"),
    ],
)
def test_architectures_that_cannot_be_trained_are_refused_by_name(
    name: str, changes: dict[str, Any], pattern: str
) -> None:
    with pytest.raises(ModelError, match=pattern):
        suitability(CONFIG_MAPPING[name](**changes), 32)


def test_generators_are_restored_after_a_failure() -> None:
    model = model_of("bert")
    before = state_of(model)

    def fail() -> None:
        with undone(model):
            model.eval()
            torch.rand(3), random.random(), np.random.rand()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert state_of(model) == before


def test_a_precision_that_the_architecture_lacks_is_refused_before_any_work(tmp_path: Any) -> None:
    """`plan` says it in one line, with exit code 2, and nothing is written."""
    done = subprocess.run(
        [
            *(sys.executable, "mlm_dist/train.py", f"--output_dir={tmp_path / 'run'}"),
            *("--model.name_or_path=deberta", f"--corpus.source={tmp_path}"),
            "--model.overrides={hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 48}",
        ],
        cwd=launching.ROOT,
        env=launching.environment(ACCELERATE_MIXED_PRECISION="bf16"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and not (tmp_path / "run").exists()
    assert (
        done.stderr.strip()
        .splitlines()[-1]
        .startswith("error: mixed_precision: a deberta model cannot compute in bf16")
    )
