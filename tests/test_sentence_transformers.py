"""The exported folder as a sentence-transformers model, and as text-embeddings-inference reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from test_exported_tokenizer import tiny, tokenizer

from mlm_dist.hf_model import sentence_transformer
from mlm_dist.hf_model.write import ModelFiles, write_files

OLD, NEW = "sentence_transformers.models.", "sentence_transformers.sentence_transformer.modules."
PROMPTS = {"query": "query: ", "document": ""}


def started(folder: Path, files: Mapping[str, Any] | None = None, *, is_new: bool = False) -> Path:
    """A sentence-transformers folder with CLS pooling and normalization, without its model."""
    folder.mkdir()
    pooling: dict[str, Any] = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True}
    pooling |= {"pooling_mode_mean_tokens": False, "include_prompt": False}
    if is_new:
        pooling = {"embedding_dimension": 32, "pooling_mode": "cls", "include_prompt": False}
    kinds = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    kind_of = NEW if is_new else OLD
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"{kind_of}{kind}"} for i, (kind, path) in enumerate(kinds)
    ]
    content = {
        "modules.json": modules,
        "1_Pooling/config.json": pooling,
        "config_sentence_transformers.json": {
            "__version__": {"sentence_transformers": "2.2.0"},
            "prompts": PROMPTS,
            "default_prompt_name": "query",
        },
        "sentence_bert_config.json": {"max_seq_length": 24, "do_lower_case": False},
    }
    for name, value in {**content, **(files or {})}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(value), "utf-8")
    return folder


def exported(folder: Path, start: Path | None, max_length: int = 16) -> dict[str, Any]:
    """{file: content} of every JSON file of the export except the tokenizer."""
    folder.mkdir()
    one = tokenizer()
    sentence = sentence_transformer.read(None if start is None else str(start))
    write_files(tiny("bert"), ModelFiles(one, one, max_length, sentence), folder, "float32")
    paths = [path for path in folder.rglob("*.json") if path.name != "tokenizer.json"]
    return {str(path.relative_to(folder)): json.loads(path.read_text("utf-8")) for path in paths}


def test_other_starts_pool_the_mean(tmp_path: Path) -> None:
    files = exported(tmp_path / "model", None)
    assert [module["type"].rsplit(".")[-1] for module in files["modules.json"]] == ["Transformer", "Pooling"]
    pooling = files["1_Pooling/config.json"]
    assert pooling["word_embedding_dimension"] == 32
    assert [name for name, value in pooling.items() if value is True] == ["pooling_mode_mean_tokens", "include_prompt"]
    assert files["sentence_bert_config.json"]["max_seq_length"] == 40
    assert "config_sentence_transformers.json" not in files


@pytest.mark.parametrize("is_new", [False, True], ids=["version 2", "version 6"])
def test_start_keeps_its_pooling_normalization_and_prompts(is_new: bool, tmp_path: Path) -> None:
    files = exported(tmp_path / "model", started(tmp_path / "start", is_new=is_new))
    kinds = [(module["type"], module["path"]) for module in files["modules.json"]]
    assert kinds == [(f"{OLD}Transformer", ""), (f"{OLD}Pooling", "1_Pooling"), (f"{OLD}Normalize", "2_Normalize")]
    pooling = files["1_Pooling/config.json"]
    assert [name for name, value in pooling.items() if value is True] == ["pooling_mode_cls_token"]
    settings = files["config_sentence_transformers.json"]
    assert settings == {"prompts": PROMPTS, "default_prompt_name": "query"}


@pytest.mark.parametrize(("max_length", "limit"), [(16, 24), (32, 32)])
def test_limit_of_the_start_is_kept_unless_rows_are_longer(max_length: int, limit: int, tmp_path: Path) -> None:
    files = exported(tmp_path / "model", started(tmp_path / "start"), max_length)
    assert files["sentence_bert_config.json"]["max_seq_length"] == limit


def test_dense_module_is_kept_and_one_with_code_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": f"{OLD}Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{OLD}Pooling"},
        {"idx": 2, "name": "2", "path": "2_Dense", "type": f"{OLD}Dense"},
        {"idx": 3, "name": "3", "path": "3_Mine", "type": "mine.Mine"},
    ]
    dense = {"in_features": 32, "out_features": 8}
    start = started(tmp_path / "start", {"modules.json": modules, "2_Dense/config.json": dense})
    save_file({"linear.weight": torch.ones(8, 32)}, start / "2_Dense" / "model.safetensors")
    files = exported(tmp_path / "model", start)
    assert [module["path"] for module in files["modules.json"]] == ["", "1_Pooling", "2_Dense"]
    assert files["2_Dense/config.json"] == dense
    assert (tmp_path / "model" / "2_Dense" / "model.safetensors").is_file()
    assert "the module Mine of" in caplog.text


def test_files_hold_what_text_embeddings_inference_requires(tmp_path: Path) -> None:
    """The fields without a default in its router's `ModelConfig`, `PoolConfig` and `STConfig`."""
    files = exported(tmp_path / "model", None)
    assert {"architectures", "model_type", "max_position_embeddings", "pad_token_id"} <= files["config.json"].keys()
    assert files["config.json"]["architectures"] == ["BertForMaskedLM"]
    modes = {f"pooling_mode_{name}" for name in ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")}
    assert modes <= files["1_Pooling/config.json"].keys()
    assert isinstance(files["sentence_bert_config.json"]["max_seq_length"], int)
    assert (tmp_path / "model" / "tokenizer.json").is_file()
    assert (tmp_path / "model" / "model.safetensors").is_file()


@pytest.mark.slow
def test_sentence_transformers_computes_what_the_files_say(tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    exported(tmp_path / "model", started(tmp_path / "start"))
    model = library.SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert model.max_seq_length == 24
    assert model.prompts == PROMPTS
    (vector,) = model.encode(["the vault " * 50], prompt="")
    encoder = tiny("bert").eval().base_model
    ids = tokenizer()("the vault " * 50, truncation=True, max_length=24, return_tensors="pt")["input_ids"]
    first = encoder(input_ids=ids).last_hidden_state[0, 0].detach()
    assert torch.allclose(torch.tensor(vector), first / first.norm(), atol=1e-5)
