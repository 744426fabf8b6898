"""The export trial: what cannot be exported is refused before the first step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from launching import here
from test_exported_tokenizer import WORDS, saved, tiny, tokenizer
from transformers import CONFIG_MAPPING, AutoModelForMaskedLM, BertTokenizer

from mlm_dist.errors import ModelError
from mlm_dist.hf_model import config_file, reload_check
from mlm_dist.hf_model.export_trial import ExportTrial
from mlm_dist.hf_model.write import ModelFiles, write_files
from mlm_dist.model.plain_copy import plain_copy, with_parameters
from mlm_dist.spec import ExportSpec

EVERYTHING = ("albert", "bert", "distilbert", "electra", "esm", "modernbert", "mpnet", "roberta", "xlm")
SHAPES: dict[str, dict[str, Any]] = {
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    "xlm": {"emb_dim": 32, "n_layers": 2, "n_heads": 2},
    "albert": {"embedding_size": 16},
    "electra": {"embedding_size": 16},
}


def files() -> ModelFiles:
    return ModelFiles(tokenizer(), tokenizer(), 16)


def spec(dtype: str = "float32", *, verify: bool = True) -> ExportSpec:
    return ExportSpec(dtype, "newest", verify=verify, push_to_hub=None)


@pytest.mark.slow
def test_trial_passes_and_leaves_the_run_as_it_was(tmp_path: Path) -> None:
    model = tiny("bert")
    before, state = reload_check.digests(model), torch.random.get_rng_state()
    with ExportTrial(spec("bfloat16"), is_main=True) as trial:
        trial.begin(model, files, tmp_path)
        assert torch.equal(torch.random.get_rng_state(), state), "the run draws the numbers that it would draw without"
        trial.end()
    assert reload_check.digests(model) == before
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_trial_refuses_a_data_type_that_is_too_narrow(tmp_path: Path) -> None:
    model = tiny("bert")
    with torch.no_grad():
        model.get_input_embeddings().weight[5, 0] = 1e6
    with ExportTrial(spec("float16"), is_main=True) as trial:
        trial.begin(model, files, tmp_path)
        with pytest.raises(ModelError, match=r"before the first step: .*logits differ by nan; export\.dtype"):
            trial.end()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_trial_refuses_a_model_that_transformers_changes_when_it_loads_it(tmp_path: Path) -> None:
    """Funnel's padding token: its embedding is 0 in a new model, and is set to 0 again in a trained one."""
    sizes = {"block_sizes": [1, 1], "d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 48, "vocab_size": 64}
    config = CONFIG_MAPPING["funnel"](**sizes, pad_token_id=0)
    with ExportTrial(spec(), is_main=True) as trial:
        trial.begin(AutoModelForMaskedLM.from_config(config), files, tmp_path)
        with pytest.raises(ModelError, match=r"before the first step: .* weights differ"):
            trial.end()


def test_trial_refuses_a_configuration_that_cannot_be_written(tmp_path: Path) -> None:
    model = tiny("modernbert")
    model.config.layer_types = ["full_attention"]
    model.config.num_hidden_layers = 1  # the model has two
    with ExportTrial(spec(), is_main=True) as trial, pytest.raises(ModelError, match=r"cannot be exported .*layers\.1"):
        trial.begin(model, files, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("verify", "is_main"), [(False, True), (True, False)])
def test_nothing_is_tried_without_verify_or_on_other_ranks(verify: bool, is_main: bool, tmp_path: Path) -> None:
    def none() -> ModelFiles:
        raise AssertionError

    with ExportTrial(spec(verify=verify), is_main=is_main) as trial:
        trial.begin(None, none, tmp_path)
        trial.end()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("model_type", EVERYTHING)
@pytest.mark.parametrize("tied", [True, False])
def test_resized_model_round_trips_bit_for_bit(model_type: str, tied: bool, tmp_path: Path) -> None:
    """With a tied and an untied head, after its vocabulary has grown as for domain tokens."""
    from transformers import AutoModelForMaskedLM

    model = tiny(model_type, tie_word_embeddings=tied, **SHAPES.get(model_type, {}))
    model.resize_token_embeddings(len(WORDS) + 4, mean_resizing=False)
    model = plain_copy(model)
    fresh = type(model)._from_config(model.config)
    shapes = {name: parameter.shape for name, parameter in fresh.named_parameters()}
    assert {name: parameter.shape for name, parameter in model.named_parameters()} == shapes
    with torch.no_grad():
        for parameter in model.parameters():  # as after training
            parameter.add_(torch.randn_like(parameter) / 16)
    trained = with_parameters(model, dict(model.named_parameters()))
    write_files(trained, files(), tmp_path, "float32")
    again = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert reload_check.digests(again) == reload_check.digests(model)
    input_ids = torch.arange(8)[None] + 5
    with torch.no_grad():
        assert torch.equal(again.eval()(input_ids=input_ids).logits, model.eval()(input_ids=input_ids).logits)


def test_tied_copy_computes_what_the_resized_model_does() -> None:
    model = tiny("roberta", tie_word_embeddings=False).eval()
    model.resize_token_embeddings(20, mean_resizing=False)
    input_ids = torch.arange(8)[None] + 5
    with torch.no_grad():
        model.lm_head.decoder.bias.normal_()
        assert torch.equal(plain_copy(model).eval()(input_ids=input_ids).logits, model(input_ids=input_ids).logits)


def test_rotary_angles_are_written_for_transformers_4_too(tmp_path: Path) -> None:
    from transformers import AutoConfig

    model = tiny("modernbert", num_hidden_layers=4)
    model.config.rope_parameters["full_attention"]["rope_theta"] = 12345.0
    write_files(model, files(), tmp_path, "float32")
    values = json.loads((tmp_path / "config.json").read_text("utf-8"))
    older = {name: values[name] for name in ("global_rope_theta", "local_rope_theta", "global_attn_every_n_layers")}
    assert older == {"global_rope_theta": 12345.0, "local_rope_theta": 10000.0, "global_attn_every_n_layers": 3}
    assert AutoConfig.from_pretrained(tmp_path).rope_parameters == model.config.rope_parameters


def test_angles_that_transformers_4_cannot_have_are_not_written() -> None:
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    default = {"rope_type": "default", "rope_theta": 1e4}
    layers = ["full_attention", "sliding_attention"]
    each = {"full_attention": linear, "sliding_attention": default}
    assert config_file.older_fields({"rope_parameters": each, "layer_types": layers}) is None
    irregular = ["sliding_attention", "full_attention", "full_attention"]
    each = {"full_attention": default, "sliding_attention": default}
    assert config_file.older_fields({"rope_parameters": each, "layer_types": irregular}) is None
    scaling = {"rope_type": "linear", "factor": 2.0}
    assert config_file.older_fields({"rope_parameters": linear}) == {"rope_theta": 1e4, "rope_scaling": scaling}
    assert config_file.older_fields({}) == {}


@pytest.mark.slow
def test_run_ends_before_its_first_step_if_it_cannot_be_exported(tmp_path: Path, prose: Path) -> None:
    model, start = tiny("bert"), saved(tmp_path / "start", BertTokenizer)
    with torch.no_grad():
        model.get_input_embeddings().weight[5, 0] = 1e6
    model.save_pretrained(start)
    flags = (
        *(f"--model.name_or_path={start}", f"--output_dir={tmp_path / 'run'}", f"--corpus.source={prose}"),
        *(f"--corpus.cache_dir={tmp_path / 'cache'}", "--corpus.validation_fraction=0.2", "--rows.max_length=32"),
        *("--optim.duration=1 steps", "--batch.global_size=4", "--export.dtype=float16"),
    )
    with pytest.raises(ModelError, match="before the first step"):
        here("train", *flags)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert not [line for line in lines if line.get("event") == "train"]
    assert not (tmp_path / "run" / "model").exists()
    assert not list((tmp_path / "run").glob(".model-*"))


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["bert", "roberta"])
def test_untied_head_with_domain_tokens_is_exported_by_both_jobs(model_type: str, tmp_path: Path, prose: Path) -> None:
    """Training exports the model in memory, the export job a checkpoint; both give the same weights."""
    start = tmp_path / "start"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz."]
    words += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(start)
    tiny(model_type, tie_word_embeddings=False, vocab_size=len(words)).save_pretrained(start)
    flags = (
        *(f"--model.name_or_path={start}", f"--output_dir={tmp_path / 'run'}", f"--corpus.source={prose}"),
        *(f"--corpus.cache_dir={tmp_path / 'cache'}", "--corpus.validation_fraction=0.2", "--rows.max_length=32"),
        *("--optim.duration=2 steps", "--batch.global_size=4", "--tokenizer.add_domain_tokens=5"),
    )
    done = here("train", *flags)
    assert "the untrained model was exported, loaded in a new process and compared" in done.log
    weights = tmp_path / "run" / "model" / "model.safetensors"
    trained = weights.read_bytes()
    weights.unlink()
    here("export", f"--output_dir={tmp_path / 'run'}", of_a_run=True)
    assert weights.read_bytes() == trained
