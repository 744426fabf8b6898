"""Activation checkpointing: the same losses and gradients as without it, in less memory, on every topology."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import launching
import pytest
import torch
from conftest import Runs

from mlm_dist.errors import ModelError
from mlm_dist.model.activation_checkpointing import checkpoint_layers
from mlm_dist.model.layers import encoder_layers
from mlm_dist.model.masked_lm import MaskedLanguageModel

ROWS, LENGTH, VOCABULARY = 4, 32, 200
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 3}
BERT = SMALL | {"intermediate_size": 64}
IDS = torch.randint(5, VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
POSITIONS = torch.arange(0, ROWS * LENGTH, 7)
CHUNKS = torch.tensor([0, 10, 32, 50, 64, 100, 128], dtype=torch.int32)
LAYERS = "--model.checkpointing=layers"

# Layers that share weights, take positional arguments, return tuples, slide, fill a cache, or are two lists of modules.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bert": BERT,
    "albert": BERT | {"embedding_size": 16, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1},
    "modernbert": BERT | {"attention_dropout": 0.1, "mlp_dropout": 0.1, "embedding_dropout": 0.1, "pad_token_id": 0},
    "deberta-v2": BERT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "distilbert": {"vocab_size": VOCABULARY, "dim": 32, "n_layers": 3, "n_heads": 2, "hidden_dim": 64},
    "mpnet": BERT,
    "xlm": {"n_words": VOCABULARY, "emb_dim": 32, "n_layers": 3, "n_heads": 2},
    "bart": {
        **{"vocab_size": VOCABULARY, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 64},
        **{"decoder_ffn_dim": 64, "encoder_attention_heads": 2, "decoder_attention_heads": 2},
    },
}
UNPACKED = ("xlm", "bart")


def model_of(name: str, *, packed: bool = False, frozen: bool = False, checkpointed: bool = True) -> Any:
    """A tiny model, the same each time."""
    from transformers import AutoConfig, AutoModelForMaskedLM

    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(AutoConfig.for_model(name, **ARCHITECTURES[name]))
    if frozen:
        model.get_input_embeddings().weight.requires_grad_(False)
    core = MaskedLanguageModel(model, packed=packed)
    if checkpointed:
        checkpoint_layers(model)
    return core


def loss_of(core: MaskedLanguageModel, *, packed: bool = False, keys: torch.Tensor | None = None) -> torch.Tensor:
    cu_seq_lens = CHUNKS if packed else None
    loss: torch.Tensor = core(IDS, None, POSITIONS, IDS.flatten()[POSITIONS], cu_seq_lens, keys).loss_sum
    return loss


def steps(
    core: MaskedLanguageModel, *, packed: bool, precision: str = "fp32", by_row: bool = True
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of two micro-batches, and their summed gradients."""
    torch.manual_seed(3)
    losses = []
    for number in range(2):
        keys = torch.arange(ROWS) + 100 * number if by_row else None
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = loss_of(core, packed=packed, keys=keys)
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(float(loss.detach()))
    return losses, {name: one.grad for name, one in core.named_parameters() if one.grad is not None}


def check_equal(found: Any, expected: Any) -> None:
    assert found[0] == expected[0]
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert torch.equal(found[1][name], gradient), name


@pytest.mark.filterwarnings("ignore:.*decoder_start_token_id")
@pytest.mark.parametrize("by_row", [True, False], ids=["dropout of rows", "dropout of torch"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_losses_and_gradients_are_the_same_bits(name: str, by_row: bool) -> None:
    packed = name not in UNPACKED
    expected = steps(model_of(name, packed=packed, checkpointed=False), packed=packed, by_row=by_row)
    check_equal(steps(model_of(name, packed=packed), packed=packed, by_row=by_row), expected)
    assert expected[0][0] != expected[0][1], "two micro-batches with the same dropout"


@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_losses_and_gradients_are_the_same_bits_in_bf16(name: str) -> None:
    expected = steps(model_of(name, packed=True, checkpointed=False), packed=True, precision="bf16")
    check_equal(steps(model_of(name, packed=True), packed=True, precision="bf16"), expected)


def test_frozen_embeddings_give_the_first_layer_inputs_without_gradients() -> None:
    expected = steps(model_of("bert", frozen=True, checkpointed=False), packed=False)
    assert "model.bert.embeddings.word_embeddings.weight" not in expected[1]
    check_equal(steps(model_of("bert", frozen=True), packed=False), expected)


def test_each_layer_is_computed_again_in_the_backward_pass_only() -> None:
    core = model_of("albert")
    (layer,) = encoder_layers(core.model)
    calls: list[int] = []
    layer.albert_layers[0].attention.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[index, union-attr]
    loss = loss_of(core, keys=torch.arange(ROWS))
    assert len(calls) == 3, "one group, used for three layers"
    loss.backward()  # type: ignore[no-untyped-call]
    assert len(calls) == 6
    with torch.no_grad():
        loss_of(core)
    assert len(calls) == 9


def test_forward_passes_before_a_backward_pass_keep_their_masks() -> None:
    """An objective may run the model on two batches; dropout of the first is drawn again after the second."""
    gradients = []
    for checkpointed in (False, True):
        core = model_of("bert", checkpointed=checkpointed)
        loss = loss_of(core, keys=torch.arange(ROWS)) + loss_of(core, keys=torch.arange(ROWS) + 50)
        loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
        loss.backward()  # type: ignore[no-untyped-call]
        gradients.append({name: one.grad for name, one in core.named_parameters() if one.grad is not None})
        between = loss_of(core, keys=torch.arange(ROWS)).detach()
        gradients[-1]["the next loss"] = between
    check_equal((0, gradients[1]), (0, gradients[0]))


def test_only_the_inputs_of_layers_are_kept() -> None:
    kept: list[int] = []
    for checkpointed in (False, True):
        sizes: dict[int, int] = {}

        def keep(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        core = model_of("bert", checkpointed=checkpointed)
        weights = sum(parameter.untyped_storage().nbytes() for parameter in core.parameters())
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            graph = loss_of(core, keys=torch.arange(ROWS))
        kept.append(sum(sizes.values()) - (0 if checkpointed else weights))
        del graph
    assert kept[1] < kept[0] / 2, kept


def test_model_without_layers_is_refused() -> None:
    class Model(torch.nn.Module):
        config = type("Config", (), {"model_type": "strange"})()

        def __init__(self) -> None:
            super().__init__()
            self.base_model = torch.nn.Linear(2, 2)

    with pytest.raises(ModelError, match=r"model\.checkpointing: no list of layers was found in a strange model; set"):
        checkpoint_layers(Model())


def losses(run: Path) -> list[float]:
    """Training and validation losses of a run."""
    return [line["loss"] for kind in ("train", "validation") for line in launching.metrics(run, kind)]


def test_run_has_the_same_losses_and_resumes_with_and_without(tmp_path: Path, prose: Path) -> None:
    """In fp32 on one process they are the same bits. The key is not a part of the run's identity."""
    common = (
        *(f"--corpus.source={prose}", f"--corpus.cache_dir={prose.parent / 'prose-cache'}", *launching.SHORT),
        *("--optim.duration=4 steps", "--checkpoint.every=2", "--checkpoint.keep_last=9", "--logging.every=1"),
        *("--batch.global_size=16", "--batch.micro_size=8", "--validation.every=null"),
        "--model.overrides={num_hidden_layers: 2, hidden_size: 32, num_attention_heads: 2}",
    )
    launching.here("train", *common, f"--output_dir={tmp_path / 'plain'}")
    launching.here("train", *common, f"--output_dir={tmp_path / 'layers'}", LAYERS)
    expected = losses(tmp_path / "plain")
    assert losses(tmp_path / "layers") == expected
    start = [launching.metrics(tmp_path / name, "start")[0]["checkpointing"] for name in ("plain", "layers")]
    assert start == ["none", "layers"]
    point, run = tmp_path / "layers" / "checkpoints" / "step-00000002", tmp_path / "resumed without"
    launching.here("train", *common, f"--output_dir={run}", f"--checkpoint.resume={point}")
    assert losses(run) == expected
    assert launching.metrics(run, "start")[-1]["resumed_from"] == 2


TOPOLOGIES = ["cpu_2", "zero1", "zero2", "zero3", "zero3_offload", "fsdp2_cpu"]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_topologies_have_the_losses_of_one_process(topology: str, precision: str, runs: Runs) -> None:
    """With accumulation, dropout, and gradients that DDP and DeepSpeed reduce while layers are computed again."""
    expected = launching.metrics(runs("one", precision=precision), "train")
    found = launching.metrics(runs(topology, LAYERS, "--batch.micro_size=4", precision=precision), "train")
    tolerances = (1e-4, 1e-3) if precision == "no" else (3e-2, 3e-2)
    assert [one["loss"] for one in found] == pytest.approx([one["loss"] for one in expected], abs=tolerances[0])
    assert [one["grad_norm"] for one in found] == pytest.approx(
        [one["grad_norm"] for one in expected], rel=tolerances[1]
    )


@pytest.mark.slow
@pytest.mark.parametrize("how", ["regional", "whole"])
@pytest.mark.parametrize("topology", ["one", "cpu_2", "zero2", "zero3", "fsdp2_cpu"])
def test_compiled_runs_have_the_losses_of_one_process(topology: str, how: str, runs: Runs) -> None:
    run = runs(topology, LAYERS, f"--model.compile={how}", "--rows.mode=chunk", "--batch.micro_size=4")
    assert losses(run) == pytest.approx(losses(runs("one", "--rows.mode=chunk")), abs=1e-4)
