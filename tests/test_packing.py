"""Packed rows: chunks are computed as if they were alone, and architectures that cannot do so are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reading import rows_of_file
from test_model import model_of
from torch.nn import functional as F

from mlm_dist.batches.masking import Masker
from mlm_dist.batches.micro_batch import MicroBatch, Samples, assemble
from mlm_dist.config import MaskingConfig
from mlm_dist.corpus import packing, rows
from mlm_dist.corpus.tokenizer.loading import SpecialTokens
from mlm_dist.errors import ModelError
from mlm_dist.model.layers import depths, encoder_layers
from mlm_dist.model.masked_lm import MaskedLanguageModel
from mlm_dist.model.suitability import suitability

LENGTH = 24
SPECIAL = SpecialTokens(prefix=(2,), suffix=(3,), pad=1, mask=4, all=(0, 1, 2, 3, 4))
IDS = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {},
    "distilbert": {"max_position_embeddings": 40},
    # Its local layers attend to 3 tokens on either side, and chunks are longer than that.
    "modernbert": {"local_attention": 6, "num_hidden_layers": 4, "cls_token_id": 2, "sep_token_id": 3},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False},
    "deberta": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "albert": {},
    "electra": {},
    "mpnet": {},
    "megatron-bert": {},
    "esm": {"token_dropout": False},
    "nomic_bert": {},
    "eurobert": {"num_key_value_heads": 1, "mask_token_id": 4},
    "big_bird": {"attention_type": "original_full"},
    "camembert": {},
    "data2vec-text": {},
    "ernie": {},
    "esmc": {},
    "gte": {},
    "ibert": {},
    "jina_embeddings_v3": {},
    "layoutlm": {},
    "luke": {"entity_vocab_size": 10},
    # Its layers have windows of 3 tokens and, the second, of 1,024.
    "neomme": {
        **{"num_hidden_layers": 4, "num_key_value_heads": 1, "head_dim": 16, "embedding_rank": 16},
        **{"sliding_window": 3, "max_position_embeddings": 2048},
    },
    "rembert": {},
    "roberta-prelayernorm": {},
    "roc_bert": {"pronunciation_vocab_size": 10, "shape_vocab_size": 10},
    "roformer": {"embedding_size": 32},
    "squeezebert": {"embedding_size": 32},
    "tapas": {},
    "ultrabert": {"num_hidden_layers": 3, "sliding_window": 3, "prediction_head_size": 32},
    "xlm": {"emb_dim": 32, "n_layers": 2, "n_heads": 2},
    "xlm-roberta": {},
    "xlm-roberta-xl": {},
    "xmod": {"default_language": "en_XX"},
}
# With padding token 0, as tokenizers that are trained here have it.
PADDED_BY_ZERO = ("mpnet", "roberta")


FAST = ("bert", "gte", "mpnet", "ultrabert")


def model_for(name: str, **changes: Any) -> Any:
    """A small model in evaluation mode, with weights so large that attention matters."""
    model = model_of(name, **IDS | ARCHITECTURES.get(name, {}) | changes)
    for parameter in model.parameters():
        if parameter.ndim > 1 and parameter.requires_grad:  # not the angles of RoFormer's rotations
            torch.nn.init.normal_(parameter, std=0.25)
    return model.eval()


def batch_of(folder: Path, mode: str, num_rows: int | None = None) -> tuple[MicroBatch, rows.RowTable]:
    """The rows of some documents, and the micro-batch that the loader makes of them."""
    draw = np.random.default_rng(5)
    lengths = draw.integers(1, 40, 14)
    ids = draw.integers(5, 120, int(lengths.sum())).astype(np.int32)
    rows.write(folder / "rows.arrow", LENGTH, [packing.make_rows(ids, lengths, mode, LENGTH, SPECIAL)])
    table = rows_of_file(folder / "rows.arrow", LENGTH)
    samples = np.arange(len(table) if num_rows is None else num_rows)
    masker = Masker(MaskingConfig(), 0, SPECIAL.mask, SPECIAL.all, 120)
    return assemble(table, masker, Samples(np.zeros_like(samples), samples), max(len(samples), len(table))), table


def chunks_of(table: rows.RowTable) -> list[slice]:
    """The positions of each chunk in the flattened rows."""
    lengths, counts = table.chunks(np.arange(len(table)))
    chunks, left = [], iter(lengths.tolist())
    for row, count in enumerate(counts.tolist()):
        begin = row * LENGTH
        for _ in range(count):
            chunks.append(slice(begin, begin := begin + next(left)))
    return chunks


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in sorted(ARCHITECTURES)]
)
def test_chunks_of_a_row_are_computed_as_if_alone(name: str, tmp_path: Path) -> None:
    model = model_for(name)
    assert suitability(model.config).style is not None
    core = MaskedLanguageModel(model, packed=True)
    core.eval()
    batch, table = batch_of(tmp_path, "pack")
    chunks = chunks_of(table)
    assert batch.attention_mask is None and len(chunks) > len(table)
    everywhere = torch.arange(batch.input_ids.numel())
    found = core.logits(batch.input_ids, None, everywhere, batch.cu_seq_lens)
    assert torch.isfinite(found).all(), "padding gives NaN"
    shown = batch.input_ids.flatten()
    alone = torch.zeros_like(found)
    for chunk in chunks:
        alone[chunk] = model(input_ids=shown[None, chunk]).logits[0]
        scale = max(1.0, float(alone[chunk].detach().abs().max()))
        torch.testing.assert_close(found[chunk], alone[chunk], rtol=1e-5, atol=1e-5 * scale)

    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    expected = F.cross_entropy(alone[batch.positions], batch.labels, reduction="sum")
    loss = core(*batch.inputs).loss_sum
    torch.testing.assert_close(loss, expected)
    theirs = torch.autograd.grad(expected, parameters, allow_unused=True)
    ours = torch.autograd.grad(loss, parameters, allow_unused=True)
    for one, other in zip(ours, theirs, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert (one - other).norm() <= 1e-4 * other.norm() + 1e-5


@pytest.mark.parametrize("name", ["bert", "modernbert", "mpnet", "deberta-v2"])
def test_rows_of_one_chunk_are_computed_as_without_packing(name: str, tmp_path: Path) -> None:
    batch, _ = batch_of(tmp_path, "chunk")
    assert batch.cu_seq_lens is None and batch.attention_mask is not None
    plain, packed = (MaskedLanguageModel(model_for(name), packed=packed).eval() for packed in (False, True))
    torch.testing.assert_close(packed(*batch.inputs), plain(*batch.inputs))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("convbert", {"embedding_size": 16}),
        ("fnet", {}),
        ("nystromformer", {}),
        ("esm", {"token_dropout": True, "mask_token_id": 4}),
        ("longformer", {"attention_window": [4, 4]}),
        ("mobilebert", {"embedding_size": 16, "intra_bottleneck_size": 32, "true_hidden_size": 32}),
        ("mra", {}),
        ("yoso", {}),
        ("deberta-v2", {"conv_kernel_size": 3, "conv_act": "gelu"}),
    ],
)
def test_models_that_mix_chunks_are_refused(name: str, changes: dict[str, Any]) -> None:
    model = model_for(name, **changes)
    assert suitability(model.config).style is None
    with pytest.raises(ModelError, match=rf"^rows\.mode: a {name} model .*--rows\.mode chunk"):
        MaskedLanguageModel(model, packed=True)
    MaskedLanguageModel(model)


@pytest.mark.parametrize("name", PADDED_BY_ZERO)
def test_packing_does_not_depend_on_the_padding_token(name: str) -> None:
    """MPNet's positions start at 2 whatever the padding token is."""
    core = MaskedLanguageModel(model_for(name, pad_token_id=0), packed=True)
    assert suitability(core.model.config).style is not None


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
        # XLM has a list for each part of its layers, NeoMME's head has no weights of its own, and SqueezeBERT does not
        # call its layers.
        for name in sorted(set(ARCHITECTURES) - {"neomme", "squeezebert", "xlm"})
    ],
)
def test_layers_are_sharded_one_at_a_time(name: str) -> None:
    """FSDP2 wraps modules of the named classes: the encoder's layers, which share no parameter with other modules."""
    model = model_for(name)
    core, layers = MaskedLanguageModel(model), encoder_layers(model)
    wrapped = [module for module in core.modules() if type(module).__name__ in core._no_split_modules]
    assert layers and wrapped == layers
    inside = {id(parameter) for layer in layers for parameter in layer.parameters()}
    depth = depths(model)
    assert inside == {id(p) for each, p in model.named_parameters() if 0 < depth[each] < max(depth.values())}


def test_leaks_between_chunks_are_found_with_small_random_weights() -> None:
    model = model_of("distilbert", **IDS)
    MaskedLanguageModel(model, packed=True)

    def leak(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, kwargs | {"attention_mask": None}

    model.distilbert.transformer.register_forward_pre_hook(leak, with_kwargs=True)
    with pytest.raises(ModelError):
        MaskedLanguageModel(model, packed=True)


def test_batches_hold_the_first_positions_of_chunks(tmp_path: Path) -> None:
    batch, table = batch_of(tmp_path, "pack")
    assert batch.cu_seq_lens is not None
    begins = set(batch.cu_seq_lens.tolist())
    chunks = chunks_of(table)
    assert begins == {chunk.start for chunk in chunks} | {chunk.stop for chunk in chunks} | {len(table) * LENGTH}
    assert batch.cu_seq_lens.dtype == torch.int32 and len(batch.cu_seq_lens) % 32 == 0
    assert (batch.cu_seq_lens.diff() >= 0).all() and batch.cu_seq_lens[0] == 0
    assert batch.num_tokens == sum(chunk.stop - chunk.start for chunk in chunks)
    special = torch.isin(batch.input_ids.flatten(), torch.tensor(SPECIAL.all))
    edges = [position for chunk in chunks for position in (chunk.start, chunk.stop - 1)]
    assert special[edges].all() and not set(edges) & set(batch.positions[batch.labels >= 0].tolist())


def test_missing_rows_are_not_counted(tmp_path: Path) -> None:
    whole, table = batch_of(tmp_path, "pack")
    part, _ = batch_of(tmp_path, "pack", num_rows=3)
    assert part.input_ids.shape == whole.input_ids.shape and part.cu_seq_lens is not None
    lengths, _ = table.chunks(np.arange(3))
    assert part.num_tokens == lengths.sum()
    assert part.positions[part.labels >= 0].max() < 3 * LENGTH and part.cu_seq_lens[-1] == whole.input_ids.numel()


def test_saved_models_do_not_mention_packing(tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM

    core = MaskedLanguageModel(model_for("bert"), packed=True)
    core.model.save_pretrained(tmp_path)
    assert "packed" not in (tmp_path / "config.json").read_text("utf-8")
    found = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert found.config._attn_implementation == "sdpa"
