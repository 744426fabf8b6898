"""Every file in configs/ loads and has the settings that its comment describes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import launching
import pytest
import specs
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from launching import ROOT

from mlm_dist.config import keys, parse, presets

ACCELERATE_FILES = sorted((ROOT / "configs" / "accelerate").glob("*.yaml"))
DEEPSPEED_FILES = sorted((ROOT / "configs" / "deepspeed").glob("*.json"))
RUN_FILES = sorted((ROOT / "configs" / "runs").glob("*.yaml"))


def test_all_topologies_exist() -> None:
    expected = ["cpu", "cpu_2", "gpu", "colab", "ddp", "zero1", "zero2", "zero3", "zero3_offload", "fsdp2", "multinode"]
    expected += ["fsdp2_cpu", "mps", "xpu"]
    assert sorted(path.stem for path in ACCELERATE_FILES) == sorted(expected)
    assert {path.stem for path in RUN_FILES} >= {"quickstart", "azure_docs", "azure_docs_notebook"}


@pytest.mark.parametrize("path", ACCELERATE_FILES, ids=lambda path: path.stem)
def test_accelerate_loads_the_file(path: Path) -> None:
    config = load_config_from_file(str(path))
    assert config.num_processes >= 1
    assert config.mixed_precision in {"no", "bf16", "fp16"}
    assert path.read_text("utf-8").startswith("# "), "the file needs a comment that says what it is for"
    if path.stem.startswith("zero"):
        assert config.deepspeed_config["zero_stage"] == int(path.stem[4])
        assert not config.use_cpu, "use_cpu silently turns DeepSpeed off"
        of_the_run = {"gradient_accumulation_steps", "gradient_clipping", "train_micro_batch_size_per_gpu"}
        assert not of_the_run & set(config.deepspeed_config), "the run config sets these"


@pytest.mark.parametrize("path", DEEPSPEED_FILES, ids=lambda path: path.stem)
def test_deepspeed_file_leaves_batch_and_clipping_to_the_run_config(path: Path) -> None:
    settings = json.loads(path.read_text("utf-8"))
    assert settings["zero_optimization"]["stage"] in {1, 2, 3}
    for name in ("gradient_accumulation_steps", "gradient_clipping", "train_micro_batch_size_per_gpu"):
        assert settings[name] == "auto"


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: path.stem)
def test_run_config_is_accepted(path: Path) -> None:
    assert path.read_text("utf-8").startswith("# ")
    config = parse([f"--config={path}"])
    assert config.output_dir == f"runs/{path.stem}"


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: path.stem)
def test_a_preset_is_its_file_by_name(path: Path) -> None:
    from_file = parse([f"--config={path}"])
    assert parse(["--preset", path.stem]) == from_file == parse(["--config", path.stem])
    about = presets.summary(path.stem)
    assert about.endswith(".") and "#" not in about


# {preset: the architecture of its checkpoint, which is on the Hub, and how many phases it has}
RECIPES = {
    "modernbert_decay": ("modernbert", 2),
    "falling_masks": ("modernbert", 3),
    "dapt": ("roberta", 1),
    "small_corpus": ("bert", 1),
    "causal_detour": ("modernbert", 2),
}


@pytest.mark.parametrize("name", RECIPES)
def test_preset_of_a_published_recipe_resolves(name: str) -> None:
    architecture, count = RECIPES[name]
    flag = "--corpus.sources.own.source=my_docs" if name == "small_corpus" else "--corpus.source=my_docs"
    config = parse([flag, f"--preset={name}", f"--model.name_or_path={architecture}"])
    spec = specs.spec_of(config)
    assert len(spec.phases) == count
    assert "my_docs" in [source.config.source for source in spec.corpus.sources]
    assert re.search(r"\d{4}", (ROOT / "configs" / "runs" / f"{name}.yaml").read_text("utf-8")), "names its source"
    rates = [phase.masking.probability for phase in spec.phases if phase.objective == "masked_lm"]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("name", ["continue", "continue_modernbert"])
def test_preset_for_own_documents_resolves(name: str, tmp_path: Path) -> None:
    """The checkpoints of the presets are on the Hub; one of the same architecture takes their place."""
    architecture = {"continue": "bert", "continue_modernbert": "modernbert"}[name]
    spec = specs.spec_of(parse(["my_docs", f"--preset={name}", f"--model.name_or_path={architecture}"]))
    assert spec.corpus.rows.mode == "pack"
    assert spec.phases[0].batch.global_size * spec.corpus.rows.max_length == 16384
    assert spec.export.checkpoint == "best" and spec.checkpoint.keep_best
    assert (spec.phases[0].rate.peak, spec.phases[0].rate.schedule, spec.validation.patience) == (5e-5, "linear", 3)
    assert [source.config.source for source in spec.corpus.sources] == ["my_docs"]


def test_quickstart_file_is_the_default_run() -> None:
    assert parse([f"--config={ROOT}/configs/runs/quickstart.yaml"]) == parse([])


def test_notebook_recipe_has_the_settings_of_the_notebook() -> None:
    config = parse([f"--config={ROOT}/configs/runs/azure_docs_notebook.yaml"])
    assert (config.rows.mode, config.rows.max_length, config.batch.global_size) == ("truncate", 128, 16)
    assert (config.optim.lr, config.optim.duration, config.optim.warmup) == (5e-5, "3 epochs", 0)
    assert config.model.name_or_path == "google-bert/bert-base-uncased"
    assert (config.corpus.clean, config.corpus.min_chars, config.corpus.deduplicate) == ("none", 201, "none")


def test_notebook_recipe_keeps_documents_of_over_200_characters_of_raw_text(tmp_path: Path) -> None:
    """As `len(text) > 200` of the notebook: markup counts, and so does the white space at the ends."""
    texts = {
        "201": "# A *b* " + "word " * 38 + "<p>",
        "200": "# A *b* " + "word " * 38 + "<p",
        "spaces": "word " * 40 + "\n",
    }
    assert {name: len(text) for name, text in texts.items()} == {"201": 201, "200": 200, "spaces": 201}
    for name, text in texts.items():
        (tmp_path / "docs").mkdir(exist_ok=True)
        (tmp_path / "docs" / f"{name}.md").write_text(text, "utf-8")
    corpus = launching.here(
        "prepare",
        f"--config={ROOT}/configs/runs/azure_docs_notebook.yaml",
        *(f"--corpus.source={tmp_path / 'docs'}", f"--corpus.cache_dir={tmp_path / 'cache'}"),
        *("--tokenizer.train_vocab_size=300", "--corpus.validation_fraction=0"),
    ).result
    kept = {id_: text for id_, _, text in corpus.documents()}
    assert kept == {"201.md": texts["201"].strip(), "spaces.md": texts["spaces"].strip()}


def test_code_outside_the_config_reads_every_key() -> None:
    package = ROOT / "mlm_dist"
    paths = [path for path in sorted(package.rglob("*.py")) if path.relative_to(package).parts[0] != "config"]
    code = "\n".join(path.read_text("utf-8") for path in paths)
    for key in keys():
        leaf = key.rsplit(".", 1)[-1]
        assert f".{leaf}" in code or f'"{leaf}"' in code, key


def test_the_run_config_has_no_key_of_the_topology() -> None:
    leaves = {key.rsplit(".", 1)[-1] for key in keys()}
    assert not leaves & {
        "num_processes",
        "mixed_precision",
        "zero_stage",
        "bf16",
        "fp16",
        "gradient_accumulation_steps",
    }


def test_yaml_comments_name_real_keys() -> None:
    for path in RUN_FILES:
        assert isinstance(yaml.safe_load(path.read_text("utf-8")), dict)
