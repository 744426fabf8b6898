"""The model: its head at masked positions, its vocabulary and its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from models import architecture, build
from tiny import overrides
from torch.nn import functional as F
from transformers import CONFIG_MAPPING, AutoModelForMaskedLM

from mlm_dist.config import parse
from mlm_dist.errors import ModelError
from mlm_dist.model import attention
from mlm_dist.model.masked_lm import MaskedLanguageModel

SMALL: dict[str, Any] = {
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}
SHAPES: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {},
    "distilbert": {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 2},
    "albert": {"embedding_size": 16},
    "electra": {"embedding_size": 16},
    "modernbert": {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
    "deberta-v2": {},
    "mpnet": {},
    "esm": {"pad_token_id": 1, "mask_token_id": 4},
}
# Further architectures whose loss and gradients are compared with those of transformers.
MORE = (
    *("camembert", "convbert", "data2vec-text", "deberta", "ernie", "esmc", "eurobert", "flaubert", "fnet", "gte"),
    *("ibert", "jina_embeddings_v3", "layoutlm", "luke", "megatron-bert", "mobilebert", "neomme", "nomic_bert"),
    *("nystromformer", "rembert", "roberta-prelayernorm", "roc_bert", "roformer", "squeezebert", "tapas"),
    *("ultrabert", "xlm-roberta", "xlm-roberta-xl", "xmod"),
)
QUICK = ("bert", "modernbert", "deberta-v2")
QUICK_AND_SLOW = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in SHAPES]
# Names of dropout in the architectures' configurations.
DROPOUT = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "hidden_dropout")


def model_of(name: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForMaskedLM.from_config(CONFIG_MAPPING[name](**SMALL | SHAPES.get(name, {}) | changes))


@pytest.mark.parametrize("name", QUICK_AND_SLOW)
def test_masked_head_gives_the_dense_logits_and_gradients(name: str) -> None:
    model = model_of(name).eval()
    input_ids = torch.randint(5, 120, (3, 16))
    positions = torch.tensor([1, 7, 20, 47, 0, 0])
    labels = torch.tensor([9, 8, 7, 6, -100, -100])
    dense = model(input_ids=input_ids).logits.flatten(0, 1)[positions]
    loss = F.cross_entropy(dense, labels, reduction="sum")
    expected = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
    core = MaskedLanguageModel(model)
    assert core.masked_head
    core.eval()
    assert torch.allclose(core.logits(input_ids, None, positions), dense, atol=1e-5)
    found = core(input_ids, None, positions, labels)
    assert torch.allclose(found.loss_sum, loss, rtol=1e-5)
    assert int(found.correct.sum()) == int((dense.argmax(-1) == labels).sum())
    ours = torch.autograd.grad(found.loss_sum, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
    for one, other in zip(ours, expected, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in sorted({*SHAPES, *MORE})]
)
def test_loss_and_gradients_equal_those_of_transformers(name: str) -> None:
    """With the same weights and batch, padding included, as BertForMaskedLM(labels=...) and its like compute them."""
    model = model_of(name, **dict.fromkeys(DROPOUT, 0.0)) if name in SHAPES else tiny_model(name)
    pad = 1 if name in ("roberta", "mpnet", "esm") else 0
    lengths = torch.tensor([16, 9, 12])
    attention_mask = (torch.arange(16) < lengths[:, None]).long()
    input_ids = torch.randint(5, 120, (3, 16)).where(attention_mask.bool(), pad)
    positions = torch.tensor([1, 7, 20, 22, 33, 43])
    truth = torch.tensor([9, 8, 7, 6, 9, 31])
    labels = torch.full_like(input_ids.flatten(), -100).index_put((positions,), truth).view_as(input_ids)
    theirs = model(input_ids=input_ids, attention_mask=attention_mask, labels=labels).loss
    theirs.backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    core = MaskedLanguageModel(model)
    ours = core(input_ids, attention_mask, positions, truth).loss_sum / len(truth)
    ours.backward()
    assert core.training and ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    largest = max(float(gradient.abs().max()) for gradient in expected.values() if gradient is not None)
    assert largest > (1e-2 if name in SHAPES else 1e-3)
    allowed = 1e-7 if name in SHAPES else 1e-5 * largest  # some have scores and gradients of very different sizes
    for each, parameter in model.named_parameters():
        found, wanted = parameter.grad, expected[each]
        assert (found is None) == (wanted is None), each
        assert found is None or wanted is None or torch.allclose(found, wanted, rtol=1e-4, atol=allowed), each


def tiny_model(name: str) -> Any:
    """A tiny model of any architecture, in training mode without dropout, that pads with token 0."""
    fields = overrides(name) | {"vocab_size": 120}
    config = parse([f"--model.name_or_path={name}", "--rows.max_length=32", f"--model.overrides={json.dumps(fields)}"])
    found = architecture(config)
    for field, value in vars(found).items():
        if ("dropout" in field or "drop_prob" in field) and isinstance(value, float) and value > 0:
            setattr(found, field, 0.0)
    torch.manual_seed(0)
    return AutoModelForMaskedLM.from_config(found).train()


def test_head_that_depends_on_all_positions_stays_dense() -> None:
    model = model_of("bert")
    model.cls.register_forward_pre_hook(lambda module, given: (given[0] * given[0].shape[1],))
    core = MaskedLanguageModel(model)
    assert not core.masked_head
    input_ids = torch.randint(5, 120, (2, 16))
    core.eval()
    dense = model(input_ids=input_ids).logits.flatten(0, 1)
    assert torch.equal(core.logits(input_ids, None, torch.tensor([3, 20])), dense[[3, 20]])


def test_loaded_checkpoint_trains_with_dropout(tmp_path: Path) -> None:
    """`from_pretrained` returns a model in evaluation mode."""
    model_of("bert").save_pretrained(tmp_path / "model")
    config = parse([f"--model.name_or_path={tmp_path / 'model'}", "--rows.max_length=32"])
    core = MaskedLanguageModel(build(config, architecture(config)))
    assert all(module.training for module in core.modules())
    input_ids, positions = torch.randint(5, 120, (2, 16)), torch.tensor([1, 2])
    assert not torch.equal(core.logits(input_ids, None, positions), core.logits(input_ids, None, positions))


def test_embeddings_are_resized_to_an_overridden_vocabulary(tmp_path: Path) -> None:
    model_of("bert").save_pretrained(tmp_path / "model")
    path = f"--model.name_or_path={tmp_path / 'model'}"
    config = parse([path, "--model.overrides.vocab_size=128", "--rows.max_length=32"])

    class Tokenizer:
        def __len__(self) -> int:
            return 128

    found = architecture(config, Tokenizer())
    model = build(config, found)
    assert model.config.vocab_size == found.vocab_size == 128
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert model.get_input_embeddings().weight.shape[0] == 128


@pytest.mark.parametrize("overrides", ["{}", "{hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 2}"])
def test_missing_vocabulary_and_special_tokens_come_from_the_tokenizer(overrides: str) -> None:
    """ESM's configuration has neither; its positions and its token dropout depend on them."""
    config = parse(["--model.name_or_path=esm", f"--model.overrides={overrides}"])
    assert architecture(config).vocab_size > 0, "the dry run has no tokenizer yet"

    class Tokenizer:
        pad_token_id, bos_token_id, eos_token_id, cls_token_id, sep_token_id, mask_token_id = 0, 2, 3, 2, 3, 4

        def __len__(self) -> int:
            return 300

    found = architecture(config, Tokenizer())
    assert (found.vocab_size, found.pad_token_id, found.mask_token_id) == (300, 0, 4)


def test_weights_from_scratch_depend_on_the_seed_alone() -> None:
    def weights(seed: int) -> torch.Tensor:
        config = parse([f"--seed={seed}"])
        torch.rand(seed + 3)  # earlier random numbers have no effect
        model = build(config, architecture(config))
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize(("size", "fits"), [(128, True), (120, True), (121, True), (119, False), (256, True)])
def test_checkpoint_may_have_more_rows_than_tokens(size: int, fits: bool, tmp_path: Path) -> None:
    """The embeddings keep their rows; fewer rows than tokens are refused."""
    model_of("bert", vocab_size=size).save_pretrained(tmp_path / "model")
    config = parse([f"--model.name_or_path={tmp_path / 'model'}", "--rows.max_length=32"])

    class Tokenizer:
        def __len__(self) -> int:
            return 120

    if fits:
        assert build(config, architecture(config, Tokenizer())).config.vocab_size == size
    else:
        with pytest.raises(ModelError, match="has 120 tokens"):
            architecture(config, Tokenizer())


@pytest.mark.parametrize("length", [512, 1300])
@pytest.mark.parametrize("padding", [0, 7])
def test_masks_of_long_rows_are_those_of_transformers(length: int, padding: int) -> None:
    """They are computed block by block, because distances of tokens take 16 times the memory of the mask."""
    from transformers import masking_utils

    mask_function = masking_utils.sliding_window_bidirectional_mask_function(65)
    attention_mask = (torch.arange(length) < torch.tensor([[length], [length - padding]])) if padding else None
    given = {"batch_size": 2, "q_length": length, "kv_length": length, "mask_function": mask_function}
    given |= {"attention_mask": attention_mask, "allow_is_causal_skip": False}
    mask = attention._mask(**given)
    assert mask is not None and torch.equal(mask, masking_utils.sdpa_mask(**given))
