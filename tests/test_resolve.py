"""`resolve` decides every open value of a config and refuses contradictions; `complete` decides the length."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from making import made_up_prose
from specs import CPU, ONE_PROCESS, completed, prepare, spec_of

from mlm_dist.batches.ramp import Ramp
from mlm_dist.config import Config, Duration, parse
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.engine.device import Device
from mlm_dist.engine.launch import Launch
from mlm_dist.errors import ConfigError, ModelError, UserError
from mlm_dist.resolve import resolve
from mlm_dist.spec import Length, Spec

GPU = Device("cuda", "H100", 8, 80 << 30, has_bf16=True)
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def of(*flags: str, launch: Launch = ONE_PROCESS) -> Spec:
    """The spec of some flags."""
    return resolve(parse(flags), launch)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT with its tokenizer."""
    from transformers import BertConfig, BertForMaskedLM

    from mlm_dist.corpus.tokenizer import training

    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer: Any = training.train("wordpiece", lambda: [made_up_prose(i, 30) for i in range(20)], 300, 128)
    tokenizer.save_pretrained(folder)
    BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **TINY)).save_pretrained(folder)
    return folder


# --- open values ---


def test_default_run_is_decided() -> None:
    spec = of()
    (phase,) = spec.phases
    assert (spec.corpus.rows.mode, spec.corpus.rows.max_length) == ("pack", 128)
    assert (phase.batch.micro_size, phase.batch.accumulation, phase.batch.world_size) == (16, 1, 1)
    assert (phase.batch.initial_size, phase.batch.initial_length, phase.batch.ramp_tokens) == (16, 128, 0)
    assert phase.rate.peak == pytest.approx(0.384 / 128)
    assert phase.duration == Duration(8, "epochs")
    assert spec.model.from_scratch
    assert (spec.corpus.tokenizer.path, spec.corpus.tokenizer.train_vocab_size) == (None, 4096)
    assert spec.architecture.vocab_size == spec.shape.vocabulary == 4096
    assert (spec.export.checkpoint, spec.checkpoint.keep_best, spec.checkpoint.num_kept) == ("newest", False, 2)
    assert phase.mix == {}
    assert phase.length == Length()


@pytest.mark.parametrize(
    ("flags", "mode"),
    [
        ((), "pack"),
        (("--model.name_or_path=modernbert",), "pack"),
        (("--model.name_or_path=convbert",), "chunk"),
        (("--model.name_or_path=gte",), "pack"),
        (("--model.name_or_path=fnet",), "chunk"),
        (("--rows.mode=truncate",), "truncate"),
        (("--rows.mode=chunk",), "chunk"),
    ],
)
def test_row_mode_is_pack_if_the_architecture_supports_it(flags: tuple[str, ...], mode: str) -> None:
    assert of(*flags).corpus.rows.mode == mode


@pytest.mark.parametrize(("gigabytes", "most"), [(3, 16), (80, 128)])
def test_micro_batch_fits_the_memory_and_the_launch(gigabytes: int, most: int) -> None:
    device = dataclasses.replace(GPU, memory=gigabytes << 30)
    launch = Launch(2, 2, device, precision="bf16", sharding="ddp")
    flags = ("--model.name_or_path=bert", "--rows.max_length=512", "--batch.global_size=256")
    spec = of(*flags, launch=launch)
    assert spec.phases[0].batch.micro_size * spec.phases[0].batch.accumulation * 2 == 256
    assert 1 <= spec.phases[0].batch.micro_size <= most
    assert (spec.phases[0].batch.micro_size == 128) == (gigabytes == 80)
    assert of(*flags, "--batch.micro_size=4", launch=launch).phases[0].batch.micro_size == 4


@pytest.mark.parametrize(
    ("flags", "lr"),
    [
        (("--optim.lr=0.25",), 0.25),
        ((), 3e-3),
        (("--model.overrides={hidden_size: 256}",), 1.5e-3),
        (("--model.name_or_path=bert-mini",), 1.5e-3),
    ],
)
def test_peak_learning_rate_from_scratch_follows_the_width(flags: tuple[str, ...], lr: float) -> None:
    assert of(*flags).phases[0].rate.peak == pytest.approx(lr)


def num_tokens_of(checkpoint: Path) -> int:
    """The vocabulary of the checkpoint."""
    return int(json.loads((checkpoint / "config.json").read_text("utf-8"))["vocab_size"])


def test_checkpoint_decides_rate_and_tokenizer(checkpoint: Path) -> None:
    flag, vocabulary = f"--model.name_or_path={checkpoint}", num_tokens_of(checkpoint)
    spec = of(flag)
    assert not spec.model.from_scratch and spec.phases[0].rate.peak == 5e-5
    assert (spec.corpus.tokenizer.path, spec.corpus.tokenizer.key) == (str(checkpoint), "model.name_or_path")
    assert spec.architecture.vocab_size == vocabulary
    scratch = of(flag, "--model.from_scratch=true")
    assert scratch.model.from_scratch and scratch.phases[0].rate.peak == pytest.approx(0.384 / 32)
    other = of(f"--tokenizer.path={checkpoint}")
    assert (other.corpus.tokenizer.path, other.corpus.tokenizer.key) == (str(checkpoint), "tokenizer.path")
    assert other.architecture.vocab_size == vocabulary
    trained = of(flag, "--model.from_scratch=true", "--tokenizer.train_vocab_size=500")
    assert trained.corpus.tokenizer.path is None and trained.shape.vocabulary == 500


@pytest.mark.parametrize(
    ("flags", "exported", "keep_best"),
    [
        ((), "newest", False),
        (("--validation.patience=2",), "best", True),
        (("--validation.patience=2", "--export.checkpoint=newest"), "newest", False),
        (("--export.checkpoint=best",), "best", True),
        (("--export.checkpoint=runs/a/checkpoints/step-00000004",), "runs/a/checkpoints/step-00000004", False),
    ],
)
def test_exported_checkpoint_is_the_best_with_patience(flags: tuple[str, ...], exported: str, keep_best: bool) -> None:
    spec = of(*flags)
    assert (spec.export.checkpoint, spec.checkpoint.keep_best) == (exported, keep_best)


@pytest.mark.parametrize(("unit", "needed"), [("token", False), ("word", True), ("span", True)])
def test_word_starts_are_stored_if_masks_need_them(unit: str, needed: bool) -> None:
    assert of(f"--masking.unit={unit}").corpus.needs_word_starts == needed


def test_written_config_is_kept_without_credentials() -> None:
    spec = of("--corpus.source=https://me:secret@example.org/a.git", "--seed=3")
    assert spec.written["seed"] == 3 and spec.written["corpus"]["source"] == "https://example.org/a.git"
    assert spec.corpus.documents.source == "https://me:secret@example.org/a.git", "needed to fetch it"


# --- contradictions ---

REFUSED: dict[str, tuple[tuple[str, ...], Launch, str]] = {
    "objective": (("--objective=causal",), ONE_PROCESS, r"^objective: .*causal"),
    "optimizer": (("--optim.name=sgd",), ONE_PROCESS, r"^optim\.name: sgd is not an optimizer"),
    "tracker": (("--tracking.trackers=paper",), ONE_PROCESS, r"^tracking\.trackers: paper"),
    "batch": (("--batch.global_size=15",), Launch(2, 2, CPU, sharding="ddp"), r"^batch\.global_size: 15 rows"),
    "micro-batch": (("--batch.micro_size=3",), ONE_PROCESS, r"^batch\.global_size: 16 is not a multiple"),
    "precision": ((), Launch(1, 1, CPU, precision="fp16"), r"^mixed_precision: fp16 needs a GPU"),
    "sharding": (
        ("--optim.name=muon",),
        Launch(2, 2, GPU, sharding="zero", stage=2),
        r"^optim\.name: muon does not work under ZeRO",
    ),
    "processes": ((), Launch(16, 16, GPU, sharding="ddp"), r"^num_processes: 16 processes on this machine"),
    "model": (
        ("--model.name_or_path=./nowhere",),
        ONE_PROCESS,
        r"^model\.name_or_path: folder \./nowhere ",
    ),
    "causal model": (("--model.name_or_path=gpt2",), ONE_PROCESS, r"^model\.name_or_path: gpt2 is a gpt2 model"),
    "override": (
        ("--model.overrides={hidden: 3}",),
        ONE_PROCESS,
        r"^model\.overrides\.hidden: a modernbert configuration",
    ),
    "tokenizer": (("--tokenizer.path=./nowhere",), ONE_PROCESS, r"^tokenizer\.path: .*\./nowhere"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_contradiction_is_refused_by_its_key(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSDP_VERSION", "2")
    flags, launch, message = REFUSED[name]
    with pytest.raises(UserError, match=message) as caught:
        of(*flags, launch=launch)
    assert "\n" not in str(caught.value)


def test_tokenizer_of_another_vocabulary_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    from transformers import BertConfig, BertForMaskedLM

    BertForMaskedLM(BertConfig(vocab_size=100, **TINY)).save_pretrained(tmp_path)
    size = num_tokens_of(checkpoint)
    message = rf"^tokenizer\.path: the tokenizer of {checkpoint} has {size} tokens, but the vocabulary of {tmp_path} "
    remedy = rf"has 100; .*--model\.overrides\.vocab_size {size + 7}$"
    with pytest.raises(ModelError, match=message + remedy):
        of(f"--model.name_or_path={tmp_path}", f"--tokenizer.path={checkpoint}", "--tokenizer.add_domain_tokens=7")


# --- the length ---


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A corpus of short rows, many with padding."""
    root = tmp_path_factory.mktemp("length")
    (root / "documents").mkdir()
    for i in range(30):
        (root / "documents" / f"{i}.txt").write_text(made_up_prose(i, 8 + i % 9), "utf-8")
    return parse(
        [
            *(f"--corpus.source={root / 'documents'}", f"--corpus.cache_dir={root / 'cache'}", "--rows.mode=chunk"),
            *("--rows.max_length=48", "--tokenizer.train_vocab_size=300", "--optim.warmup=0.1"),
        ]
    )


@pytest.fixture(scope="module")
def corpus(config: Config) -> PreparedCorpus:
    return prepare(config)


def length_of(config: Config, corpus: PreparedCorpus, duration: str, **batch: int) -> tuple[Length, Ramp]:
    """The length of a run of a duration, and its ramp."""
    changed = dataclasses.replace(
        config,
        optim=dataclasses.replace(config.optim, duration=duration),
        batch=dataclasses.replace(config.batch, **batch),
    )
    (phase,) = completed(spec_of(changed), corpus).phases
    return phase.length, Ramp(phase.batch, phase.rows.max_length)


@pytest.mark.parametrize("epochs", [1, 2.5, 0.001, 8])
def test_length_in_epochs(config: Config, corpus: PreparedCorpus, epochs: float) -> None:
    samples = max(1, round(epochs * len(corpus.rows("train"))))
    length, _ = length_of(config, corpus, f"{epochs} epochs")
    steps = -(-samples // 16)
    assert length == Length(steps, samples, -(-steps // 10))


@pytest.mark.parametrize("steps", [1, 7, 1000])
def test_length_in_steps(config: Config, corpus: PreparedCorpus, steps: int) -> None:
    length, _ = length_of(config, corpus, f"{steps} steps")
    assert length == Length(steps, 16 * steps, -(-steps // 10))


def test_length_in_tokens_counts_tokens_without_padding(config: Config, corpus: PreparedCorpus) -> None:
    rows = corpus.rows("train")
    num_tokens = int(rows.chunks(np.arange(len(rows)))[0].sum())
    assert num_tokens < 0.97 * 48 * len(rows), "nothing is padded"
    length, _ = length_of(config, corpus, f"{2 * num_tokens} tokens")
    assert length.samples == 2 * len(rows)
    assert length.steps == -(-2 * len(rows) // 16)
    in_thousands, _ = length_of(config, corpus, "3k tokens")
    assert in_thousands.samples == round(3000 * len(rows) / num_tokens)


def test_length_in_hours_is_not_known(config: Config, corpus: PreparedCorpus) -> None:
    assert length_of(config, corpus, "2 hours")[0] == Length(None, None, None)


@pytest.mark.parametrize("duration", ["3 epochs", "60 steps", "20k tokens"])
def test_length_with_a_ramp(config: Config, corpus: PreparedCorpus, duration: str) -> None:
    plain, _ = length_of(config, corpus, duration)
    length, ramp = length_of(config, corpus, duration, initial_size=4, ramp_tokens=8000)
    assert length.steps is not None and length.samples is not None
    assert ramp.samples_before(length.steps - 1) < length.samples <= ramp.samples_before(length.steps)
    assert plain.steps is not None and plain.samples is not None
    if duration.endswith("steps"):
        assert length.steps == plain.steps and length.samples < plain.samples
    else:
        assert length.samples == plain.samples and length.steps > plain.steps


@pytest.mark.parametrize("duration", ["3 epochs", "5 steps", "1 hours", "1k tokens"])
def test_fewer_rows_than_a_global_batch_are_refused(config: Config, corpus: PreparedCorpus, duration: str) -> None:
    num_rows = len(corpus.rows("train"))
    with pytest.raises(ConfigError, match=rf"^batch\.global_size: {num_rows + 1} .* only {num_rows} training rows"):
        length_of(config, corpus, duration, global_size=num_rows + 1)
    length_of(config, corpus, duration, global_size=num_rows)


def test_corpus_without_rows_is_refused(
    config: Config, corpus: PreparedCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(corpus.manifest["sources"][0]["rows"], "train", 0)
    with pytest.raises(ConfigError, match=r"^corpus\.source: .*no rows"):
        completed(spec_of(config), corpus)


def test_length_is_the_same_on_any_number_of_processes(
    config: Config, corpus: PreparedCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    launches = [Launch(n, n, CPU, sharding="ddp" if n > 1 else "none") for n in (1, 2, 4, 8)]
    assert len({completed(resolve(config, launch), corpus).phases[0].length for launch in launches}) == 1


def test_resolved_values_hold_no_password() -> None:
    texts = ("tracking.project", "tracking.group", "corpus.sources.a.source", "corpus.sources.b.source")
    address = "https://someone:s3cretMARK@example.org/repo"
    spec = of(*(f"--{key}={address}" for key in texts), f"--tracking.tags=[{address}]")
    assert "s3cretMARK" not in spec.to_yaml()
    assert spec.to_yaml().count("https://example.org/repo") >= len(texts) + 1
