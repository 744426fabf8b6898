"""The weights of a checkpoint: each is used, reported or refused."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import test_model
import torch
from models import architecture
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

from mlm_dist.config import parse
from mlm_dist.errors import ModelError
from mlm_dist.model.build import InitialModel, build

QUERY = "bert.encoder.layer.1.attention.self.query.weight"


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A BERT with a head, as transformers saves it."""
    test_model.model_of("bert").save_pretrained(tmp_path / "plain")
    return tmp_path / "plain"


def start(folder: Path, *flags: str) -> InitialModel:
    """The model that training would start from."""
    config = parse([f"--model.name_or_path={folder}", "--rows.max_length=32", *flags])
    return build(config.model, architecture(config), config.seed)


def renamed(folder: Path, to: Path, change: Callable[[str], str], without: Iterable[str] = ()) -> Path:
    """A copy of a checkpoint with other names of weights; the empty name removes one."""
    shutil.copytree(folder, to)
    weights = {change(name): value for name, value in load_file(folder / "model.safetensors").items()}
    kept = {name: value for name, value in weights.items() if name and name not in without}
    save_file(kept, to / "model.safetensors", metadata={"format": "pt"})
    return to


def have_same_weights(one: Any, other: Any) -> bool:
    """Whether all parameters of two models are equal."""
    theirs = dict(other.named_parameters())
    return all(torch.equal(value, theirs.pop(name)) for name, value in one.named_parameters()) and not theirs


WRAPPED = {
    "torch.compile": ("_orig_mod.", lambda name: f"_orig_mod.{name}"),
    "DDP": ("module.", lambda name: f"module.{name}"),
    "torch.compile inside DDP": ("_orig_mod., module.", lambda name: f"module._orig_mod.{name}"),
    "DDP inside torch.compile": ("_orig_mod., module.", lambda name: f"_orig_mod.module.{name}"),
    "Lightning and Composer": ("model.", lambda name: f"model.{name}"),
    "Lightning around torch.compile": ("_orig_mod., model.", lambda name: f"model._orig_mod.{name}"),
    "layers compiled one by one": ("_orig_mod.", lambda name: re.sub(r"(layer\.\d+\.)", r"\1_orig_mod.", name)),
    "FSDP": (
        "_fsdp_wrapped_module.",
        lambda name: "_fsdp_wrapped_module." + re.sub(r"(layer\.\d+\.)", r"\1_fsdp_wrapped_module.", name),
    ),
    "distillation": ("student.", lambda name: f"student.{name}"),
    "names of TensorFlow": (
        "",
        lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"),
    ),
}


@pytest.mark.parametrize("kind", list(WRAPPED))
def test_prefixes_of_wrappers_are_removed_and_logged(
    kind: str, plain: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    removed, change = WRAPPED[kind]
    caplog.set_level("INFO", "mlm_dist")
    wrapped = start(renamed(plain, tmp_path / "wrapped", change))
    assert wrapped.head == "checkpoint"
    assert have_same_weights(wrapped.model, AutoModelForMaskedLM.from_pretrained(plain))
    lines = [line for line in caplog.messages if "removed from the names" in line]
    assert [line.rsplit(": ", 1)[1] for line in lines] == ([removed] if removed else [])


def test_a_wrapped_modernbert_keeps_its_own_model_prefix(tmp_path: Path) -> None:
    """Its encoder is called model, as the attribute that holds models in Lightning."""
    saved = tmp_path / "plain"
    test_model.model_of("modernbert").save_pretrained(saved)
    expected = AutoModelForMaskedLM.from_pretrained(saved)
    assert have_same_weights(start(saved).model, expected)
    assert have_same_weights(start(renamed(saved, tmp_path / "held", lambda name: f"model.{name}")).model, expected)


@pytest.mark.parametrize("name", ["bert", "roberta", "modernbert"])
def test_encoders_without_a_head_are_loaded_whole(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As BertModel saves one, and with the classifier of a fine-tuned model, which is named in the log."""
    torch.manual_seed(0)
    config = test_model.model_of(name).config
    classifier = AutoModelForSequenceClassification.from_config(config)
    classifier.save_pretrained(tmp_path / "classifier")
    classifier.base_model.save_pretrained(tmp_path / "encoder")
    expected = dict(classifier.base_model.named_parameters())
    caplog.set_level("INFO", "mlm_dist")
    for folder in ("classifier", "encoder"):
        loaded = start(tmp_path / folder)
        assert loaded.head == "initialized"
        found = dict(loaded.model.base_model.named_parameters())
        assert all(torch.equal(value, expected[one]) for one, value in found.items())
        assert any("has no masked-LM head" in line for line in caplog.messages)
    unused = [line for line in caplog.messages if "not part of a masked-language model and not used" in line]
    assert any("classifier" in line for line in unused)


def test_a_pooler_that_is_not_used_is_named(plain: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(plain, tmp_path / "more")
    more = {"bert.pooler.dense.weight": torch.ones(32, 32), "cls.seq_relationship.bias": torch.ones(2)}
    weights = load_file(plain / "model.safetensors") | more
    save_file(weights, tmp_path / "more" / "model.safetensors", metadata={"format": "pt"})
    caplog.set_level("INFO", "mlm_dist")
    assert start(tmp_path / "more").head == "checkpoint"
    assert caplog.messages == [
        f"model.name_or_path: 2 weights of {tmp_path / 'more'} are not part of a masked-language model and not used "
        "(bert.pooler.dense.weight, cls.seq_relationship.bias)"
    ]


def roberta_under_bert(plain: Path, folder: Path) -> Path:
    test_model.model_of("roberta").save_pretrained(folder)
    shutil.copy(plain / "config.json", folder)
    return folder


def electra_under_bert(plain: Path, folder: Path) -> Path:
    return renamed(plain, folder, lambda name: name.replace("bert.", "discriminator.electra."))


def without_a_query(plain: Path, folder: Path) -> Path:
    return renamed(plain, folder, lambda name: name, without=[QUERY])


def another_width(plain: Path, folder: Path) -> Path:
    test_model.model_of("bert", hidden_size=16).save_pretrained(folder)
    shutil.copy(plain / "config.json", folder)
    return folder


def without_layers(plain: Path, folder: Path) -> Path:
    test_model.model_of("bert", num_hidden_layers=1).save_pretrained(folder)
    shutil.copy(plain / "config.json", folder)
    return folder


def not_finite(plain: Path, folder: Path) -> Path:
    model = test_model.model_of("bert")
    model.bert.encoder.layer[0].output.dense.bias.data[3] = float("nan")
    model.cls.predictions.bias.data[5] = float("inf")
    model.save_pretrained(folder)
    return folder


BROKEN: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "RoBERTa weights under a BERT config": (
        roberta_under_bert,
        r"lacks 37 of 44 weights of its bert model \(bert\.emb",
    ),
    "another architecture's names": (electra_under_bert, r"it has discriminator\.electra\.embeddings\.LayerNorm\.bias"),
    "one deleted weight": (without_a_query, rf"lacks 1 of 44 weights of its bert model \({QUERY}\)"),
    "missing layers": (without_layers, r"lacks 16 of 44 weights .*\(bert\.encoder\.layer\.1\.attention"),
    "another width": (another_width, r"another shape than its config.json says .*; the first is \[16\], not \[32\]"),
    "NaN and infinity": (
        not_finite,
        r"2 weights of .* hold NaN or infinity "
        r"\(bert\.encoder\.layer\.0\.output\.dense\.bias, cls\.predictions\.bias\)",
    ),
}


@pytest.mark.parametrize("kind", list(BROKEN))
def test_faults_of_a_checkpoint_are_refused(kind: str, plain: Path, tmp_path: Path) -> None:
    make, message = BROKEN[kind]
    folder = make(plain, tmp_path / "broken")
    with pytest.raises(ModelError, match=rf"^model\.name_or_path: .*{message}"):
        start(folder)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("{intermediate_size: 64}", r"they give 6 weights of .* another shape .*; the first is \[48\], not \[64\]"),
        ("{num_hidden_layers: 3}", r"they ask for 16 of 60 weights that .* does not have"),
    ],
)
def test_overrides_that_the_weights_cannot_fill_name_the_key(overrides: str, message: str, plain: Path) -> None:
    with pytest.raises(ModelError, match=rf"^model\.overrides: {message}"):
        start(plain, f"--model.overrides={overrides}")


def test_fewer_layers_are_said_in_one_line(plain: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As asked for by the config; a config.json that disagrees with its weights gives a warning."""
    caplog.set_level("INFO", "mlm_dist")
    shorter = start(plain, "--model.overrides={num_hidden_layers: 1}").model
    assert shorter.config.num_hidden_layers == 1
    (line,) = caplog.messages
    assert line.startswith(f"model.name_or_path: as model.overrides asked for, 16 weights of {plain} are not used (")
    caplog.clear()
    test_model.model_of("bert", num_hidden_layers=1).save_pretrained(tmp_path / "one")
    shutil.copy(plain / "model.safetensors", tmp_path / "one")
    start(tmp_path / "one")
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "because its config.json has fewer layers" in record.getMessage()


def test_weights_do_not_share_memory_with_the_file(plain: Path) -> None:
    """Training changes the weights in place; the checkpoint must stay as it is."""
    before = load_file(plain / "model.safetensors")[QUERY].clone()
    with torch.no_grad():
        for parameter in start(plain).model.parameters():
            parameter.zero_()
    assert torch.equal(load_file(plain / "model.safetensors")[QUERY], before)
