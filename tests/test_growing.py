"""Growing: a model from a smaller one, or from one with another tokenizer; and training of the last layers only."""

from __future__ import annotations

import dataclasses
import json
import logging
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from making import made_up_prose
from test_architecture import TINY
from transformers import CONFIG_MAPPING, AutoModelForMaskedLM

from mlm_dist.config import ModelConfig, parse
from mlm_dist.corpus.tokenizer import shared_tokens, training
from mlm_dist.engine import memory
from mlm_dist.engine.launch import Launch
from mlm_dist.errors import ConfigError, ModelError, UserError
from mlm_dist.model import growth
from mlm_dist.model.architecture import architecture, tokenizer_source
from mlm_dist.model.build import build
from mlm_dist.model.configuration import changed
from mlm_dist.model.growable import WIDENED
from mlm_dist.model.layers import depths
from mlm_dist.model.tiling import copies, tiled_index
from mlm_dist.resolve import resolve

VOCABULARY = 100


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [made_up_prose(i, 30) for i in range(20)]


@pytest.fixture(scope="module")
def tokenizer(texts: list[str]) -> Any:
    return training.train("wordpiece", lambda: texts, 300, 128)


@pytest.fixture(scope="module")
def small(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a tokenizer."""
    folder = tmp_path_factory.mktemp("small")
    tokenizer.save_pretrained(folder)
    randomized(changed(CONFIG_MAPPING["bert"](), TINY | {"vocab_size": len(tokenizer)})).save_pretrained(folder)
    return folder


def randomized(config: Any) -> Any:
    """A model all of whose weights are random, in evaluation mode."""
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model


def sizes(config: Any, factor: int) -> dict[str, Any]:
    """Overrides of a tiny model, and of one whose layers are wider by a factor."""
    found = {"hidden_size": 32 * factor, "num_attention_heads": 2 * factor}
    wide = {"intermediate_size": 64, "hidden_dim": 64, "embedding_size": 32}
    found |= {name: width * factor for name, width in wide.items() if name in vars(config)}
    if "num_key_value_heads" in vars(config):
        found["num_key_value_heads"] = factor * (2 if config.model_type == "esmc" else 1)
    return found | ({"languages": ["en_XX"], "default_language": "en_XX"} if config.model_type == "xmod" else {})


# --- width and depth ---


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(WIDENED))
def test_model_of_twice_the_width_computes_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "NOISE", 0.0)
    default = CONFIG_MAPPING[name]()
    changes = {"vocab_size": VOCABULARY, "num_hidden_layers": 2, "pad_token_id": 0}
    if "max_position_embeddings" in vars(default):
        changes["max_position_embeddings"] = 64
    base = changed(default, changes)
    source = randomized(changed(base, sizes(base, 1)))
    model = AutoModelForMaskedLM.from_config(changed(base, sizes(base, 2))).eval()
    growth.grow(model, source, "small", [[i] for i in range(VOCABULARY)])
    model.tie_weights()
    input_ids = torch.arange(5, 45).view(2, 20)
    with torch.no_grad():
        assert torch.allclose(model(input_ids).logits, source(input_ids).logits, atol=1e-5)


def test_tiling_is_centered_and_keeps_heads_whole() -> None:
    assert tiled_index(4, 8).tolist() == [2, 3, 0, 1, 2, 3, 0, 1]
    assert tiled_index(3, 5).tolist() == [2, 0, 1, 2, 0]
    assert copies(3, 5).tolist() == [2, 2, 1, 2, 2]
    # Three heads of two values become five: the offset is a whole head.
    assert tiled_index(6, 10, 2).tolist() == [4, 5, 0, 1, 2, 3, 4, 5, 0, 1]


def grown(small: Path, seed: int = 0, **changes: Any) -> Any:
    overrides = TINY | changes
    model = ModelConfig(name_or_path="bert", init_from=str(small), overrides=overrides)
    from mlm_dist.corpus.tokenizer import loading

    tokenizer = loading.load(str(small))
    sources = shared_tokens.sources(str(small), tokenizer)
    return build(model, architecture(model, 64, tokenizer), seed, token_sources=sources).model


def test_layers_are_repeated_in_order(small: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    source = AutoModelForMaskedLM.from_pretrained(small)
    model = grown(small, num_hidden_layers=5)
    old, new = source.bert.encoder.layer, model.bert.encoder.layer
    for i, j in enumerate([0, 0, 0, 1, 1]):
        pairs = zip(new[i].parameters(), old[j].parameters(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)
    assert torch.equal(model.bert.embeddings.word_embeddings.weight, source.bert.embeddings.word_embeddings.weight)
    assert torch.equal(model.cls.predictions.bias, source.cls.predictions.bias)
    assert "2 layers" in caplog.text and "become 5" in caplog.text


def test_layers_keep_their_kind_of_attention() -> None:
    base = changed(CONFIG_MAPPING["modernbert"](), TINY | {"vocab_size": VOCABULARY, "pad_token_id": 0})
    source = randomized(changed(base, {"num_hidden_layers": 4}))  # full, sliding, sliding, full
    model = AutoModelForMaskedLM.from_config(changed(base, {"num_hidden_layers": 8}))
    growth.grow(model, source, "small", [[i] for i in range(VOCABULARY)])
    kinds = model.config.layer_types
    for i, layer in enumerate(model.model.layers):
        matches = [j for j in range(4) if torch.equal(layer.mlp.Wi.weight, source.model.layers[j].mlp.Wi.weight)]
        assert [source.config.layer_types[j] for j in matches] == [kinds[i]]
        assert torch.count_nonzero(layer.mlp_norm.weight - 1) > 0
        assert i == 0 or torch.count_nonzero(layer.attn_norm.weight - 1) > 0, "the first layer of the source has none"


def test_growth_depends_on_the_seed_and_copies_differ(small: Path) -> None:
    wide = {"hidden_size": 48, "num_attention_heads": 3, "intermediate_size": 96, "num_hidden_layers": 3}
    one, same, other = grown(small, 0, **wide), grown(small, 0, **wide), grown(small, 1, **wide)
    for name, parameter in one.named_parameters():
        assert torch.equal(parameter, same.get_parameter(name))
    weight = one.bert.encoder.layer[0].output.dense.weight
    assert not torch.equal(weight, other.bert.encoder.layer[0].output.dense.weight)
    index = tiled_index(64, 96, 16)
    twins = (index == 0).nonzero().flatten().tolist()
    assert len(twins) > 1 and not torch.equal(weight[:, twins[0]], weight[:, twins[1]])


def test_longer_positions_repeat_those_of_the_source(small: Path) -> None:
    source = AutoModelForMaskedLM.from_pretrained(small).bert.embeddings.position_embeddings.weight
    table = grown(small, max_position_embeddings=700).bert.embeddings.position_embeddings.weight
    assert torch.equal(table[:512], source) and torch.equal(table[512:], source[: 700 - 512])


# --- tokens ---


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_shared_tokens_are_copied_and_others_start_from_their_pieces(
    kind: str, texts: list[str], tokenizer: Any, small: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    new = training.train(kind, lambda: texts, 400, 128, uncased=True)
    sources = shared_tokens.sources(str(small), new)
    assert sources is not None and len(sources) == len(new)
    old = tokenizer.convert_ids_to_tokens
    marks = {"wordpiece": ("", "##"), "bpe": ("Ġ", ""), "unigram": ("▁", "")}[kind]
    vocabulary = new.get_vocab()
    for name in ("pad", "unk", "cls", "sep", "mask"):
        assert sources[getattr(new, f"{name}_token_id")] == [getattr(tokenizer, f"{name}_token_id")]
    words = [token for token in tokenizer.get_vocab() if token.isalpha() and len(token) > 2]
    shared = [word for word in words if marks[0] + word in vocabulary]
    assert len(shared) > 5
    for word in shared:
        assert old(sources[vocabulary[marks[0] + word]]) == [word]
    assert "start from one token of" in caplog.text and "from the mean of all" in caplog.text


def test_rows_of_tokens_are_means_of_their_sources(small: Path, tokenizer: Any) -> None:
    source = AutoModelForMaskedLM.from_pretrained(small)
    model = ModelConfig(name_or_path=str(small), init_from=str(small), overrides={"vocab_size": len(tokenizer) + 1})
    tokens = [[5], [6, 7], []] + [[i] for i in range(3, len(tokenizer))]
    found = build(model, architecture(model, 64, tokenizer), 0, token_sources=tokens).model
    rows, new = source.get_input_embeddings().weight, found.get_input_embeddings().weight
    assert torch.equal(new[0], rows[5]) and torch.allclose(new[1], rows[6:8].mean(0))
    assert torch.allclose(new[2], rows.mean(0), atol=1e-6) and torch.allclose(new[-1], rows.mean(0), atol=1e-6)
    assert found.get_output_embeddings().weight is found.get_input_embeddings().weight
    bias, old = found.get_output_embeddings().bias, source.get_output_embeddings().bias
    assert torch.equal(bias[0], old[5]) and torch.allclose(bias[1], old[6:8].mean())


# --- the config ---


def test_tokenizer_and_learning_rate_of_a_grown_model(small: Path) -> None:
    config = parse(["--model.name_or_path=bert", f"--model.init_from={small}", f"--model.overrides={json.dumps(TINY)}"])
    spec = resolve(config, Launch.read())
    assert (spec.corpus.tokenizer.path, spec.corpus.tokenizer.key) == (str(small), "model.init_from")
    assert not spec.model.from_scratch and spec.phases[0].rate.peak == pytest.approx(0.384 / 32)
    trained = parse([f"--model.init_from={small}", "--tokenizer.train_vocab_size=500"])
    assert tokenizer_source(trained.model, trained.tokenizer) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name_or_path": "roberta"}, r"^model\.init_from: .* is a bert model, but .* means roberta"),
        ({"overrides": TINY | {"hidden_size": 16}}, r"^model\.init_from: the hidden_size of .* is 32, .* only 16"),
        ({"overrides": TINY | {"num_attention_heads": 4}}, r"^model\.init_from: .* heads .*num_attention_heads 2"),
        ({"init_from": "./nowhere"}, r"^model\.init_from: folder \./nowhere does not exist"),
    ],
)
def test_model_that_cannot_grow_is_refused_before_any_work(changes: dict[str, Any], message: str, small: Path) -> None:
    model = ModelConfig(name_or_path="bert", init_from=str(small), overrides=TINY)
    with pytest.raises(ModelError, match=message):
        architecture(dataclasses.replace(model, **changes), 64, None, train_vocab_size=500)


def test_two_checkpoints_are_refused(small: Path, tmp_path: Path) -> None:
    other = AutoModelForMaskedLM.from_pretrained(small)
    other.save_pretrained(tmp_path)
    model = ModelConfig(name_or_path=str(tmp_path), init_from=str(small))
    with pytest.raises(ConfigError, match=r"^model\.init_from and model\.name_or_path are both checkpoints"):
        architecture(model, 64, None, train_vocab_size=500)
    (tmp_path / "model.safetensors").unlink()
    assert architecture(model, 64, None, train_vocab_size=500).vocab_size == 500, "a configuration alone"
    with pytest.raises(ConfigError, match=r"^model\.from_scratch and model\.init_from exclude each other"):
        parse([f"--model.init_from={small}", "--model.from_scratch=true"])


# --- training of the last layers ---


@pytest.mark.parametrize("name", ["bert", "modernbert", "deberta-v2", "xlm"])
def test_only_the_last_layers_and_the_head_are_trained(name: str) -> None:
    overrides = {"num_hidden_layers": 3, "hidden_size": 32, "num_attention_heads": 2, "vocab_size": VOCABULARY}
    model = ModelConfig(name_or_path=name, overrides=overrides, trainable_layers=1)
    built = build(model, architecture(model, 64), 0).model
    depth = depths(built)
    for parameter_name, parameter in built.named_parameters():
        assert parameter.requires_grad == (depth[parameter_name] >= 3), parameter_name
    too_many = dataclasses.replace(model, trainable_layers=4)
    with pytest.raises(ModelError, match=r"^model\.trainable_layers: 4 is more than the 3 layers"):
        build(too_many, architecture(too_many, 64), 0)


def test_moments_of_layers_that_are_not_trained_need_no_memory() -> None:
    def of(*flags: str) -> memory.Memory:
        found: memory.Memory = resolve(
            parse(["--model.overrides={num_hidden_layers: 4}", *flags]), Launch.read()
        ).memory
        return found

    built = build(parse([]).model, architecture(parse([]).model, 64), 0).model
    per_layer = sum(parameter.numel() for parameter in built.model.layers[0].parameters())
    three = of("--model.trainable_layers=3").moments - of("--model.trainable_layers=2").moments
    assert three == pytest.approx(8 * per_layer, rel=0.02)
    assert of("--model.trainable_layers=4").moments < of().moments
    with pytest.raises(UserError, match=r"^model\.trainable_layers: must be at most the 4 layers"):
        of("--model.trainable_layers=5")


# --- does it help? ---


def trained(model: Any, rows: torch.Tensor, num_steps: int, lr: float) -> list[float]:
    """Train on random rows; the validation loss before and after, on the last rows."""
    generator = torch.Generator().manual_seed(0)
    train, validation = rows[:-64], rows[-64:]
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98))

    def loss(batch: torch.Tensor) -> torch.Tensor:
        chosen = torch.rand(batch.shape, generator=generator) < 0.15
        logits = model(torch.where(chosen, 4, batch)).logits
        return torch.nn.functional.cross_entropy(logits[chosen], batch[chosen])

    def validate() -> float:
        generator.manual_seed(1)
        with torch.no_grad():
            return float(loss(validation))

    found = [validate()]
    for step in range(num_steps):
        generator.manual_seed(100 + step)
        optimizer.param_groups[0]["lr"] = lr * min(1.0, (step + 1) / 10)
        optimizer.zero_grad()
        torch.autograd.backward(loss(train[torch.randint(len(train), (16,), generator=generator)]))
        optimizer.step()
    return [*found, validate()]


def about_a_subject(seed: int) -> str:
    """Words of one of ten subjects, each of which has six."""
    draw = random.Random(seed)
    letters = "bcdfghjklm"[seed % 10]
    return " ".join(draw.choice("aei") + letters + draw.choice("ou") + letters for _ in range(40))


@pytest.mark.slow
def test_grown_models_learn_faster_than_random_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [about_a_subject(i) for i in range(800)]

    def rows_of(tokenizer: Any) -> torch.Tensor:
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"][:32] for text in texts]
        return torch.tensor([row for row in ids if len(row) == 32])

    sizes = TINY | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "max_position_embeddings": 32}
    larger = sizes | {"hidden_size": 48, "num_attention_heads": 3, "intermediate_size": 96, "num_hidden_layers": 4}
    old = training.train("wordpiece", lambda: texts, 150, 32)
    new = training.train("bpe", lambda: texts, 500, 32)

    def of(overrides: dict[str, Any], tokenizer: Any, init_from: str | None = None) -> Any:
        model = ModelConfig(name_or_path="bert", overrides=overrides, init_from=init_from)
        sources = shared_tokens.sources(init_from, tokenizer)
        return build(model, architecture(model, 32, tokenizer), 0, token_sources=sources).model

    source = of(sizes, old)
    lines = {"the smaller model, 300 steps": trained(source, rows_of(old), 300, 1e-2)}
    folder = str(tmp_path)
    source.save_pretrained(folder)
    old.save_pretrained(folder)
    cases = {"larger": (larger, old), "another tokenizer": (sizes, new), "both": (larger, new)}
    for name, (overrides, tokenizer) in cases.items():
        rows = rows_of(tokenizer)
        fresh = lines[f"{name}, random weights"] = trained(of(overrides, tokenizer), rows, 50, 5e-3)
        grown = lines[f"{name}, grown"] = trained(of(overrides, tokenizer, folder), rows, 50, 5e-3)
        assert grown[0] < fresh[0] - 1 and grown[1] < fresh[1] - 1, lines
    with capsys.disabled():
        print()
        for line, (before, after) in lines.items():
            print(f"| {line} | {before:.2f} | {after:.2f} |")
