"""What model.name_or_path may name: folders of every kind, runs, their checkpoints, and revisions on the Hub."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import test_model
import torch
from huggingface_hub import constants
from models import architecture
from safetensors.torch import load_file, save_file
from specs import spec_of
from test_checkpoint_weights import have_same_weights, start
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertModel

from mlm_dist.config import parse
from mlm_dist.corpus.tokenizer import loading
from mlm_dist.errors import ModelError
from mlm_dist.model import checkpoint_files
from mlm_dist.model.build import build
from mlm_dist.pretrained import locate


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A BERT with a head, as transformers saves it."""
    test_model.model_of("bert").save_pretrained(tmp_path / "plain")
    return tmp_path / "plain"


def with_weights(plain: Path, folder: Path) -> dict[str, torch.Tensor]:
    """A copy of the folder without its weights; and these."""
    shutil.copytree(plain, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    weights: dict[str, torch.Tensor] = load_file(plain / "model.safetensors")
    return weights


# --- files of weights ---


def one_pickle(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    torch.save(weights, folder / "pytorch_model.bin")


def pickled_shards(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    names = list(weights)
    parts = {"pytorch_model-00001-of-00002.bin": names[:20], "pytorch_model-00002-of-00002.bin": names[20:]}
    for file, mine in parts.items():
        torch.save({name: weights[name] for name in mine}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, mine in parts.items() for name in mine}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def shards(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    names = list(weights)
    parts = {"model-00001-of-00002.safetensors": names[:20], "model-00002-of-00002.safetensors": names[20:]}
    for file, mine in parts.items():
        save_file({name: weights[name] for name in mine}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, mine in parts.items() for name in mine}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def lightning(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    state = {f"model.{name}": value for name, value in weights.items()}
    torch.save({"epoch": 3, "state_dict": state}, folder / "last.ckpt")


def composer(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    state = {f"model.{name}": value for name, value in weights.items()}
    torch.save({"state": {"model": state, "run_name": "mine"}}, folder / "latest-rank0.pt")


@pytest.mark.parametrize("write", [one_pickle, pickled_shards, shards, lightning, composer])
def test_weights_are_read_from_every_kind_of_file(
    write: Callable[[Path, dict[str, torch.Tensor]], None], plain: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    write(folder, with_weights(plain, folder))
    loaded = start(folder)
    assert loaded.head == "checkpoint" and have_same_weights(loaded.model, AutoModelForMaskedLM.from_pretrained(plain))


def test_tied_weights_of_a_pickle_stay_tied_and_apart_from_others(plain: Path, tmp_path: Path) -> None:
    """A state dict names the embeddings twice."""
    weights = with_weights(plain, tmp_path / "other")
    weights["cls.predictions.decoder.weight"] = weights["bert.embeddings.word_embeddings.weight"]
    torch.save(weights, tmp_path / "other" / "pytorch_model.bin")
    model = start(tmp_path / "other").model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_flexbert_s_names_are_those_of_modernbert(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A checkpoint of ModernBERT's authors' repository, which trains with Composer."""
    caplog.set_level("INFO", "mlm_dist")
    test_model.model_of("modernbert").save_pretrained(tmp_path / "plain")
    weights = with_weights(tmp_path / "plain", tmp_path / "flex")
    flex = {name.replace("model.layers.", "model.encoder.layers."): value for name, value in weights.items()}
    flex = {f"model.{'bert.' + name[6:] if name.startswith('model.') else name}": v for name, v in flex.items()}
    assert "model.bert.encoder.layers.1.attn.Wqkv.weight" in flex and "model.head.dense.weight" in flex
    torch.save({"state": {"model": flex}}, tmp_path / "flex" / "ep1-ba100-rank0.pt")
    loaded = start(tmp_path / "flex")
    assert have_same_weights(loaded.model, AutoModelForMaskedLM.from_pretrained(tmp_path / "plain"))
    assert any(line.endswith(": the names of FlexBERT, model.") for line in caplog.messages)


class Harmful:
    """A pickle that makes a file if it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_pickle_with_code_is_not_unpickled(plain: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    weights: dict[str, Any] = dict(with_weights(plain, folder))
    torch.save(weights | {"more": Harmful(tmp_path / "made")}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"holds more than tensors.*safetensors\.torch\.save_file"):
        start(folder)
    assert not (tmp_path / "made").exists()


def write(name: str, content: bytes = b"x") -> Callable[[Path, dict[str, torch.Tensor]], None]:
    def made(folder: Path, weights: dict[str, torch.Tensor]) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    return made


def truncated(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    save_file(weights, folder / "model.safetensors")
    os.truncate(folder / "model.safetensors", 20_000)


def truncated_pickle(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    torch.save(weights, folder / "pytorch_model.bin")
    os.truncate(folder / "pytorch_model.bin", 20_000)


def missing_shard(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    shards(folder, weights)
    (folder / "model-00002-of-00002.safetensors").unlink()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
REFUSED: dict[str, tuple[Callable[[Path, dict[str, torch.Tensor]], None], str]] = {
    "no weights": (write("notes.txt"), r"has no weights .*it holds config\.json"),
    "GGUF": (write("model-q8.gguf"), r"model-q8\.gguf is GGUF weights.*the checkpoint that they were converted from"),
    "ONNX": (write("onnx/model.onnx"), r"onnx/model\.onnx is an ONNX model"),
    "TensorFlow": (write("tf_model.h5"), r"tf_model\.h5 is TensorFlow weights.*from_tf=True"),
    "Flax": (write("flax_model.msgpack"), r"flax_model\.msgpack is Flax weights.*from_flax=True"),
    "an adapter": (write("adapter_model.safetensors"), r"is a peft adapter.*merge_and_unload"),
    "DeepSpeed": (write("global_step9/mp_rank_00_model_states.pt"), r"is a DeepSpeed checkpoint.*zero_to_fp32"),
    "DCP": (write("__0_0.distcp"), r"is a distributed PyTorch checkpoint.*dcp_to_torch"),
    "broken safetensors": (write("model.safetensors", b"\x08\0\0\0\0\0\0\0{broken}"), r"is truncated or damaged"),
    "truncated safetensors": (truncated, r"model\.safetensors \(20,000 bytes\) is truncated or damaged"),
    "truncated pickle": (truncated_pickle, r"pytorch_model\.bin is truncated or damaged"),
    "a pointer": (write("model.safetensors", LFS), r"is a Git LFS pointer.*git lfs pull"),
    "a missing shard": (missing_shard, r"names 2 files, of which 1 are missing \(model-00002-of-00002\.safetensors\)"),
    "a broken index": (write("model.safetensors.index.json"), r"is no index of shards"),
}


@pytest.mark.parametrize("kind", list(REFUSED))
def test_folders_without_good_weights_say_what_they_hold(kind: str, plain: Path, tmp_path: Path) -> None:
    make, message = REFUSED[kind]
    folder = tmp_path / "other"
    make(folder, with_weights(plain, folder))
    with pytest.raises(ModelError, match=rf"^model\.name_or_path: .*{message}") as refused:
        start(folder)
    if "pickle" not in kind:  # it is read later
        with pytest.raises(ModelError, match=message):
            checkpoint_files.check(locate(str(folder), "model.name_or_path"))
    assert len(str(refused.value).splitlines()) == 1


# --- configurations ---


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"model_type": "new-impl", "auto_map": {"AutoConfig": "configuration.NewConfig"}},
            r"needs code from its repository .*never run; 'new-impl' is no architecture of transformers",
        ),
        ({"model_type": "bert", "quantization_config": {"quant_method": "bitsandbytes"}}, r"are quantized \(bitsandb"),
        ({"hidden_size": 3}, r"config\.json has no model_type"),
    ],
)
def test_configurations_that_cannot_be_trained(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "configuration.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ModelError, match=rf"^model\.name_or_path: .*{message}"):
        architecture(parse([f"--model.name_or_path={tmp_path}"]))
    assert not (tmp_path / "ran").exists()


def test_other_folders_and_files_without_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(b"x")
    for name, message in ((tmp_path, r"has no config\.json \(it holds weights\.pt\)"), ("weights.pt", r"is a file;")):
        with pytest.raises(ModelError, match=message):
            architecture(parse([f"--model.name_or_path={tmp_path / name}"]))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="holds an adapter"):
        architecture(parse([f"--model.name_or_path={tmp_path}"]))


def test_the_transformer_of_a_sentence_transformer_may_be_in_a_subfolder(
    prepared_cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = next(path for path in prepared_cache.iterdir() if (path / "tokenizer").is_dir())
    tokenizer = AutoTokenizer.from_pretrained(found / "tokenizer")
    encoder = BertModel(test_model.model_of("bert", vocab_size=len(tokenizer)).config, add_pooling_layer=True)
    encoder.save_pretrained(tmp_path / "0_Transformer")
    tokenizer.save_pretrained(tmp_path / "0_Transformer")
    (tmp_path / "config.json").write_text('{"__version__": "0.3.0"}')
    kind = "sentence_transformers.models."
    modules = [{"path": "0_Transformer", "type": f"{kind}Transformer"}, {"path": "1_Pooling", "type": f"{kind}Pooling"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    assert len(loading.load(str(tmp_path), "model.name_or_path")) == len(tokenizer)
    caplog.set_level("INFO", "mlm_dist")
    loaded = start(tmp_path)
    assert loaded.head == "initialized"
    expected = dict(encoder.named_parameters())
    assert all(torch.equal(value, expected[name]) for name, value in loaded.model.bert.named_parameters())
    assert f"model.name_or_path: taking the weights of {tmp_path}/0_Transformer" in caplog.messages


# --- revisions ---


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A cache of the Hub, without network, with two revisions of mine/encoder: {main, step1000: snapshot}."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    snapshots = {}
    for i, name in enumerate(("main", "step1000")):
        commit = f"{i + 1:040x}"
        snapshots[name] = cache / "models--mine--encoder" / "snapshots" / commit
        test_model.model_of("bert", max_position_embeddings=40 + i).save_pretrained(snapshots[name])
        (cache / "models--mine--encoder" / "refs").mkdir(exist_ok=True)
        (cache / "models--mine--encoder" / "refs" / name).write_text(commit)
    return snapshots


def test_a_revision_selects_configuration_and_weights(hub: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    """By its tag and by its commit; the main branch is the default."""
    caplog.set_level("INFO", "mlm_dist")
    for flags, name in (
        ([], "main"),
        (["--model.revision=step1000"], "step1000"),
        ([f"--model.revision={hub['step1000'].name}"], "step1000"),
    ):
        config = parse(["--model.name_or_path=mine/encoder", "--rows.max_length=32", *flags])
        found = architecture(config)
        assert found.max_position_embeddings == (40 if name == "main" else 41)
        model = build(config.model, found, 0).model
        assert have_same_weights(model, AutoModelForMaskedLM.from_pretrained(hub[name]))
    assert "model.name_or_path: taking the weights of mine/encoder, revision step1000" in caplog.messages


def test_a_revision_is_that_of_the_model_s_own_tokenizer(hub: dict[str, Path], prepared_cache: Path) -> None:
    found = next(path for path in prepared_cache.iterdir() if (path / "tokenizer").is_dir())
    tokenizer = AutoTokenizer.from_pretrained(found / "tokenizer")
    tokenizer.save_pretrained(hub["step1000"])
    test_model.model_of("bert", vocab_size=len(tokenizer)).save_pretrained(hub["step1000"])
    flags = ["--model.name_or_path=mine/encoder", "--model.revision=step1000", "--rows.max_length=32"]
    spec = spec_of(parse(flags))
    assert spec.corpus.tokenizer.revision == spec.model.revision == "step1000"
    with pytest.raises(ModelError, match=r"^model\.name_or_path: mine/encoder has no tokenizer files"):
        spec_of(parse(flags[:1]))
    spec = spec_of(parse([*flags, f"--tokenizer.path={found / 'tokenizer'}"]))
    assert spec.corpus.tokenizer.revision is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bert", r"^model\.revision: bert is an architecture"),
        ("plain", r"^model\.revision: .*plain is a folder"),
        ("mine/encoder", r"revision unknown of mine/encoder"),
    ],
)
def test_a_revision_without_effect_is_refused(name: str, message: str, plain: Path, hub: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match=message):
        architecture(parse([f"--model.name_or_path={plain if name == 'plain' else name}", "--model.revision=unknown"]))


# --- runs ---


def test_a_run_its_model_and_its_checkpoints_are_starts(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A run means its exported model; every one brings its tokenizer."""
    checkpoint = run / "checkpoints" / "step-00000006"
    exported = AutoModelForMaskedLM.from_pretrained(run / "model")
    caplog.set_level("INFO", "mlm_dist")
    for folder in (run, run / "model", run / "checkpoints" / "step-00000012", checkpoint):
        config = parse([f"--model.name_or_path={folder}", "--rows.max_length=64"])
        tokenizer = loading.load(str(folder), "model.name_or_path")
        loaded = build(config.model, architecture(config, tokenizer), 0)
        assert loaded.head == "checkpoint"
        assert have_same_weights(loaded.model, exported) == (folder != checkpoint)
        if folder == checkpoint:
            stored = load_file(checkpoint / "model.safetensors")
            weights = dict(loaded.model.named_parameters())
            assert all(torch.equal(value, weights[name.removeprefix("model.")]) for name, value in stored.items())
    assert f"model.name_or_path: taking the weights of {run / 'model'}" in caplog.messages
    assert any(
        line.endswith(f"{checkpoint}, a checkpoint of a run, with step 0 and new moments") for line in caplog.messages
    )
    assert not any("removed from the names" in line for line in caplog.messages)


def test_a_checkpoint_of_an_unfinished_run_has_the_tokenizer_of_its_corpus(copy: Path) -> None:
    expected = loading.load(str(copy / "model"), "model.name_or_path").get_vocab()
    shutil.rmtree(copy / "model")
    found = loading.load(str(copy / "checkpoints" / "step-00000006"), "model.name_or_path")
    assert found.get_vocab() == expected


def test_damaged_or_incomplete_runs_say_so(copy: Path) -> None:
    checkpoint = copy / "checkpoints" / "step-00000012"
    with open(checkpoint / "model.safetensors", "r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\0\1\2\3")
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged: it differs from the manifest"):
        start(checkpoint, "--rows.max_length=64")
    shutil.rmtree(copy / "model")
    with pytest.raises(ModelError, match=r"has no exported model; export one with .*checkpoints/step-00000012"):
        start(copy)
