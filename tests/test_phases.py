"""Phases: a run of several parts, each with its rows, masks, batch, rate and length; exact on resume and branches."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import launching
import pytest
import specs
import torch
import yaml
from making import made_up_prose
from models import rate_spec

from mlm_dist import pretrained
from mlm_dist.checkpoint import format, same_run
from mlm_dist.checkpoint.state import PhaseStart, TrainState
from mlm_dist.config import Config, parse
from mlm_dist.config.phases import phases_of
from mlm_dist.engine.device import Device
from mlm_dist.engine.launch import Launch
from mlm_dist.errors import CheckpointError, ConfigError, ModelError
from mlm_dist.evaluation.validation_set import ValidationSet
from mlm_dist.model import rotary, saved_config
from mlm_dist.model.build import build
from mlm_dist.optim.schedule import last_rate, learning_rate
from mlm_dist.pages.record import read_record
from mlm_dist.spec import Length, PhaseSpec

STABLE: dict[str, Any] = {
    "name": "stable",
    "duration": "5 steps",
    "mix": {"own": 0.7, "other": 0.3},
    "masking": {"probability": 0.3},
    "optim": {"lr": 0.003, "schedule": "constant", "warmup": 2},
}
LONG: dict[str, Any] = {
    "name": "long",
    "duration": "4 steps",
    "mix": {"own": 1.0},
    "objective": "causal_lm",
    "rows": {"max_length": 128, "mode": "chunk"},
    "batch": {"global_size": 4},
    "optim": {"lr": 0.002, "schedule": "constant", "warmup": 2},
}
DECAY: dict[str, Any] = {
    "name": "decay",
    "duration": "5 steps",
    "masking": {"unit": "word", "probability": 0.2, "final_probability": 0.1},
    "optim": {"lr": 0.002, "schedule": "sqrt", "floor": 0.1},
}
PHASES = [STABLE, LONG, DECAY]
FROZEN = [STABLE | {"model": {"freeze_embeddings": True}}, DECAY | {"model": {"trainable_layers": 1}}]
TWO_SOURCES: dict[str, Any] = {"sources": {"own": {"source": "docs"}, "other": {"source": "python-docs"}}}
GPUS = Device("cuda", "H100", 2, 80 << 30, has_bf16=True)


def config_of(*phases: dict[str, Any], **values: Any) -> Config:
    """A config with these phases."""
    return Config(phases=list(phases), **{"corpus": TWO_SOURCES} | values)


# --- config ---


def test_phase_takes_what_it_does_not_set_from_the_run() -> None:
    config = config_of(
        STABLE,
        DECAY,
        masking={"probability": 0.4, "mask": 0.7},
        optim={"lr": 0.01, "warmup": 3},
        batch={"global_size": 32, "initial_size": 8, "ramp_tokens": 1000},
    )
    stable, decay = phases_of(config)
    assert (stable.name, str(stable.duration), stable.objective) == ("stable", "5 steps", "masked_lm")
    assert (stable.mix, decay.mix) == ({"own": 0.7, "other": 0.3}, {})
    assert (stable.masking.probability, stable.masking.mask) == (0.3, 0.7)
    assert (decay.masking.probability, decay.masking.unit, decay.masking.mask) == (0.2, "word", 0.7)
    assert (stable.optim.warmup, stable.optim.lr, decay.optim.lr) == (2, 0.003, 0.002)
    assert decay.optim.warmup == 0, "only the first phase has the warm-up of the run"
    assert (stable.batch.initial_size, decay.batch.initial_size) == (8, None), "nor does it ramp up again"
    assert decay.batch.global_size == 32


def test_config_without_phases_is_one_phase() -> None:
    (only,) = phases_of(Config(optim={"duration": "7 steps"}))  # type: ignore[arg-type]
    assert (only.name, str(only.duration), only.optim.warmup) == ("", "7 steps", 0.06)


def without(phase: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in phase.items() if name != key}


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([without(STABLE, "name")], r"^phases: phase 1 needs a name of letters"),
        ([STABLE | {"name": "a b"}], r"^phases: phase 1 needs a name of letters.*got a b"),
        ([STABLE, STABLE], r"^phases: two have the name stable"),
        ([without(STABLE, "duration")], r"^phases\.stable\.duration: give one such as"),
        ([STABLE | {"duration": "long"}], r"^phases\.stable\.duration: must be like"),
        ([STABLE | {"duration": 5}], r"^phases\.stable\.duration: expected str"),
        ([STABLE | {"learning_rate": 1}], r"^phases\.stable\.learning_rate: unknown key"),
        ([STABLE | {"objective": 3}], r"^phases\.stable\.objective: expected str, got 3"),
        ([STABLE | {"mix": {"own": 0.7, "other": 0.4}}], r"^phases\.stable\.mix: shares must add up to 1"),
        ([STABLE | {"mix": {"own": 0.7, "others": 0.3}}], r"^phases\.stable\.mix\.others: .*other"),
        ([STABLE | {"mix": 1}], r"^phases\.stable\.mix: expected"),
        ([STABLE | {"masking": {"rate": 0.3}}], r"^phases\.stable\.masking\.rate: unknown key"),
        ([STABLE | {"masking": {"probability": 2}}], r"^phases\.stable\.masking\.probability: must be over 0"),
        ([STABLE | {"masking": {"probability": "much"}}], r"^phases\.stable\.masking\.probability: expected float"),
        ([STABLE | {"masking": 0.3}], r"^phases\.stable\.masking: expected keys and values"),
        ([STABLE | {"optim": {"name": "muon"}}], r"^phases\.stable\.optim\.name: has no effect here; a phase sets"),
        ([STABLE | {"model": {"compile": "whole"}}], r"^phases\.stable\.model\.compile: has no effect here"),
        ([STABLE | {"optim": {"floor": 1.5}}], r"^phases\.stable\.optim\.floor: must be from 0 to 1"),
        ([STABLE | {"batch": {"initial_size": 4}}], r"^phases\.stable\.batch\.initial_size needs the number of tokens"),
        (
            [DECAY | {"duration": "2 hours"}],
            r"^phases\.decay\.duration in hours and masking\.final_probability exclude each other",
        ),
    ],
)
def test_wrong_phase_is_refused_by_name(phases: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(*phases)


def test_domain_tokens_need_a_phase_that_trains_embeddings() -> None:
    frozen = [STABLE | {"model": {"freeze_embeddings": True}}, DECAY | {"model": {"trainable_layers": 1}}]
    message = (
        r"^tokenizer\.add_domain_tokens and phases\.stable\.model\.freeze_embeddings and "
        r"phases\.decay\.model\.trainable_layers exclude each other"
    )
    with pytest.raises(ConfigError, match=message):
        config_of(*frozen, tokenizer={"add_domain_tokens": 5})
    config_of(LONG, *frozen, tokenizer={"add_domain_tokens": 5})


def test_duration_of_the_run_excludes_phases() -> None:
    with pytest.raises(ConfigError, match=r"^optim\.duration and phases exclude each other"):
        config_of(STABLE, optim={"duration": "2 epochs"})


def test_flags_change_the_phases_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({"phases": PHASES, "corpus": TWO_SOURCES}), "utf-8")
    flags = ["--phases.decay.optim.lr", "1e-4", "--phases.long.duration=2 epochs", "--phases.long.masking.unit", "span"]
    stable, long, decay = phases_of(parse(["--config", str(file), *flags]))
    assert (decay.optim.lr, decay.optim.schedule, str(long.duration)) == (1e-4, "sqrt", "2 epochs")
    assert (long.masking.unit, stable.optim.lr) == ("span", 0.003)
    with pytest.raises(ConfigError, match=r"^phases\.last: there is no such phase; there is stable, long, decay"):
        parse(["--config", str(file), "--phases.last.optim.lr=1"])
    with pytest.raises(
        ConfigError, match=r"^phases\.decay is a phase; give one of its keys, such as --phases\.decay\."
    ):
        parse(["--config", str(file), "--phases.decay=3"])
    with pytest.raises(ConfigError, match=r"^unknown key 'phase\.decay\.optim\.lr'; did you mean 'phases\.decay\."):
        parse(["--config", str(file), "--phase.decay.optim.lr=3"])
    with pytest.raises(ConfigError, match=r"^phases\.decay\.optim\.rate: unknown key"):
        parse(["--config", str(file), "--phases.decay.optim.rate=1"])


def test_phases_survive_the_config_file_of_a_run(tmp_path: Path) -> None:
    from mlm_dist.config import to_yaml

    config = config_of(*PHASES)
    (tmp_path / "config.yaml").write_text(to_yaml(config), "utf-8")
    assert parse(["--config", str(tmp_path / "config.yaml")]) == config


# --- resolving ---


def test_every_phase_is_decided() -> None:
    spec = specs.spec_of(config_of(*PHASES, rows={"max_length": 64}))
    assert [(one.rows.mode, one.rows.max_length) for one in spec.phases] == [("pack", 64), ("chunk", 128), ("pack", 64)]
    assert [one.batch.global_size for one in spec.phases] == [16, 4, 16]
    assert (spec.corpus.rows.max_length, spec.corpus.longest_row) == (64, 128), "validation uses the rows of the run"
    assert spec.corpus.needs_word_starts, "one phase masks words"
    assert spec.checkpoint.num_kept == 2 + 2, "where a phase ends, a run can be extended"
    assert [one.rate.begin for one in spec.phases] == [0.0, 0.003, 0.002]
    assert spec.memory == max((one.memory for one in spec.phases), key=lambda memory: memory.total)


def test_steps_of_a_phase_follow_from_its_own_rows(prepared: Any) -> None:
    config, corpus = prepared
    phases = (
        {"name": "one", "duration": "2 epochs"},
        {"name": "two", "duration": "3 steps", "batch": {"global_size": 8}},
    )
    one, two = specs.completed(specs.spec_of(dataclasses.replace(config, phases=[*phases])), corpus).phases
    rows = len(corpus.rows("train"))
    assert one.length == Length(-(-2 * rows // 16), 2 * rows, one.length.warmup_steps)
    assert two.length == Length(3, 24, 0)


@pytest.fixture
def prepared(prose: Path) -> Any:
    """A config of a small corpus, and the corpus."""
    flags = (f"--corpus.source={prose}", f"--corpus.cache_dir={prose.parent / 'prose-cache'}", *launching.SHORT)
    config = parse([flag for flag in flags if not flag.startswith("--optim.duration")])
    return config, specs.prepare(config)


def test_objectives_of_the_phases_share_a_model() -> None:
    with pytest.raises(ConfigError, match=r"^phases\.long\.objective: next_token is not known"):
        specs.spec_of(config_of(STABLE, LONG | {"objective": "next_token"}))
    overrides = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 64}
    fnet = config_of(STABLE, LONG, model={"name_or_path": "fnet", "overrides": overrides})
    with pytest.raises(ModelError, match=r"^phases\.long\.objective: attention of a fnet model cannot be made causal"):
        specs.spec_of(fnet)


def test_batch_of_a_phase_must_fit_the_processes() -> None:
    with pytest.raises(ConfigError, match=r"^phases\.long\.batch\.global_size: 3 rows cannot be divided among 2"):
        specs.spec_of(config_of(STABLE, LONG | {"batch": {"global_size": 3}}), Launch(2, 2, GPUS))


# --- the learning rate ---


def test_warmup_begins_where_the_phase_before_ended() -> None:
    rate = rate_spec(lr=4.0, warmup=3, schedule="constant", begin=2.0)
    assert [learning_rate(step, rate, 10) for step in range(5)] == [2.5, 3.0, 3.5, 4.0, 4.0]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "sqrt", "wsd"])
def test_schedules_end_at_the_floor(schedule: Any) -> None:
    rate = rate_spec(lr=2.0, warmup=0, schedule=schedule, floor=0.25)
    rates = [learning_rate(step, rate, 1000) for step in range(1001)]
    assert rates[0] == 2.0 and rates[1000] == last_rate(rate) == pytest.approx(0.5)
    assert rates == sorted(rates, reverse=True)


def test_sqrt_falls_over_the_whole_phase() -> None:
    rate = rate_spec(lr=2.0, warmup=0, schedule="sqrt")
    assert [learning_rate(step, rate, 100) for step in (0, 25, 64)] == pytest.approx([2.0, 1.0, 0.4])


# --- the rotary base ---


def test_rotary_base_changes_angles_and_configuration() -> None:
    config = parse(["--model.overrides={hidden_size: 32, num_attention_heads: 2, intermediate_size: 64}"])
    model = build(config.model, specs.spec_of(config).architecture, 0).model
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    rotary.set_theta(model, 500_000.0)
    changed = {name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])}
    assert changed and all("full_attention" in name for name in changed), "sliding layers keep theirs"
    fresh = type(model)(model.config)
    for name, buffer in fresh.named_buffers():
        assert torch.equal(dict(model.named_buffers())[name], buffer)
    rotary.set_theta(model, rotary.theta_of(specs.spec_of(config).architecture))
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_rotary_base_is_refused_where_it_means_nothing() -> None:
    with pytest.raises(ConfigError, match=r"^model\.rope_theta: bert models have no rotary positions"):
        specs.spec_of(Config(model={"name_or_path": "bert-tiny", "rope_theta": 5e5}))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^phases\.decay\.model\.rope_theta: the phase before sets 500000"):
        specs.spec_of(config_of(STABLE | {"model": {"rope_theta": 5e5}}, DECAY))


# --- which checkpoints belong to a run ---

OF_RUN: dict[str, Any] = {"seed": 7}


def phases(*steps: int | None) -> list[PhaseSpec]:
    """Phases of so many steps, or of some hours."""
    durations = ["1 hours" if count is None else f"{count} steps" for count in steps]
    return [dataclasses.replace(specs.phase(one), name=f"p{i}") for i, one in enumerate(durations)]


def saved(folder: Path, step: int, starts: list[int], *of_phases: dict[str, Any]) -> Path:
    """A checkpoint of a run whose phases began after so many steps."""
    begun = tuple(PhaseStart(start, 16 * start) for start in starts)
    state = dataclasses.replace(TrainState.new(torch.device("cpu")), step=step, phases=begun)
    path = folder / format.name_of(step)
    path.mkdir()
    format.write_state(path, state.to_json(), OF_RUN | {"phases": [*of_phases]}, 8)
    return path


A, B, C = ({"masking.probability": value, "name": "", "optim.duration": "10 steps"} for value in (0.3, 0.2, 0.1))


def test_later_phases_may_change_and_more_may_follow(tmp_path: Path) -> None:
    path = saved(tmp_path, 12, [0, 10], A, B, C)
    for later in ([], [C], [A], [C, A]):
        same_run.require_same(path, OF_RUN | {"phases": [A, B, *later]}, phases(10, 5, *[3] * len(later)))
    assert not same_run.is_end(path, phases(10, 5))
    assert same_run.is_end(path, phases(10, 2)) and not same_run.is_end(path, phases(10, 2, 3))
    assert not same_run.is_end(path, phases(10, None))


@pytest.mark.parametrize(
    ("identities", "steps", "message"),
    [
        ([A, C], (10, 5), r"^phases\.p1\.masking\.probability: .*was made with 0.2, now it is 0.1"),
        ([B, B], (10, 5), r"^phases\.p0\.masking\.probability: .*was made with 0.3, now it is 0.2"),
        ([A], (20,), r"^phases: .* is in phase 2, but there are 1"),
        ([A, B], (9, 5), r"^phases\.p0\.duration: 9 steps, but .* ended this phase after 10"),
        ([A, B], (10, 1), r"^phases\.p1\.duration: 1 steps, but .* has 2 already"),
    ],
)
def test_checkpoint_of_other_phases_is_refused(
    identities: list[dict[str, Any]], steps: tuple[int, ...], message: str, tmp_path: Path
) -> None:
    path = saved(tmp_path, 12, [0, 10], A, B)
    with pytest.raises(CheckpointError, match=message):
        same_run.require_same(path, OF_RUN | {"phases": identities}, phases(*steps))


def test_phase_of_hours_that_has_ended_keeps_its_duration(tmp_path: Path) -> None:
    hours, longer = A | {"optim.duration": "1 hours"}, A | {"optim.duration": "2 hours"}
    path = saved(tmp_path, 12, [0, 10], hours, B)
    same_run.require_same(path, OF_RUN | {"phases": [hours, B]}, phases(None, 5))
    same_run.require_same(path, OF_RUN | {"phases": [A, B]}, phases(10, 5))  # the steps that it had
    with pytest.raises(CheckpointError, match=r"^phases\.p0\.duration: .* was made with 1 hours, now it is 2 hours"):
        same_run.require_same(path, OF_RUN | {"phases": [longer, B]}, phases(None, 5))


def test_phase_that_has_begun_keeps_its_name(tmp_path: Path) -> None:
    path = saved(tmp_path, 12, [0, 10], A, B | {"name": "p1"})
    same_run.require_same(path, OF_RUN | {"phases": [A | {"name": "p0"}, B | {"name": "p1"}]}, phases(10, 5))
    with pytest.raises(CheckpointError, match=r"^phases\.p1\.name: .* was made with p1, now it is other"):
        same_run.require_same(path, OF_RUN | {"phases": [A, B | {"name": "other"}]}, phases(10, 5))


# --- runs ---


class PhasedRuns:
    """Runs with phases on a small corpus."""

    def __init__(self, folder: Path, documents: Path) -> None:
        self.folder, self._documents, self._others = folder, documents, folder / "others"
        self._others.mkdir()
        for i in range(100, 115):
            (self._others / f"{i}.txt").write_text(made_up_prose(i, 30), "utf-8")

    def flags(self, name: str, *phases: dict[str, Any]) -> list[str]:
        """The flags of a run with these phases."""
        cache = self._documents.parent / "prose-cache"
        return [
            *(f"--corpus.sources.own.source={self._documents}", f"--corpus.sources.other.source={self._others}"),
            *(f"--corpus.cache_dir={cache}", "--corpus.validation_fraction=0.2"),
            *(f"--output_dir={self.folder / name}", f"--phases={json.dumps(phases)}", "--batch.global_size=8"),
            *("--logging.every=1", "--validation.every=6", "--checkpoint.every=2", *launching.TINY, *launching.DROPOUT),
        ]

    def here(self, name: str, *phases: dict[str, Any], more: tuple[str, ...] = ()) -> Path:
        """A run in this process; its directory."""
        launching.here("train", *self.flags(name, *phases), *more)
        return self.folder / name

    def weights(self, name: str) -> bytes:
        """The weights of the last checkpoint of a run."""
        last = max((self.folder / name / "checkpoints").iterdir())
        return (last / "model.safetensors").read_bytes() + (last / "optimizer.safetensors").read_bytes()


@pytest.fixture(scope="module")
def phased(tmp_path_factory: pytest.TempPathFactory, prose: Path) -> PhasedRuns:
    runs = PhasedRuns(tmp_path_factory.mktemp("phased"), prose)
    runs.here("whole", *PHASES)
    return runs


def lines_of(run: Path, kind: str = "train") -> list[dict[str, Any]]:
    """The lines of a run without what depends on the time."""
    return [without(line, "tokens_per_second") for line in launching.metrics(run, kind)]


def test_run_of_three_phases(phased: PhasedRuns) -> None:
    run = phased.folder / "whole"
    train = lines_of(run)
    assert [line["phase"] for line in train] == ["stable"] * 5 + ["long"] * 4 + ["decay"] * 5
    assert [line["samples"] for line in train] == [*range(8, 41, 8), *range(44, 57, 4), *range(64, 97, 8)]
    assert [line["learning_rate"] for line in train[:9]] == pytest.approx(
        [0.001, 0.002, 0.003, 0.003, 0.003, 0.003 - 0.001 / 3, 0.003 - 0.002 / 3, 0.002, 0.002]
    )
    assert train[9]["learning_rate"] == 0.002 and train[13]["learning_rate"] > 0.1 * 0.002
    validated = lines_of(run, "validation")
    assert [line["step"] for line in validated] == [0, 5, 6, 9, 12, 14], "a phase ends with a validation"
    assert len({line["masked_tokens"] for line in validated}) == 1, "the masks stay the same"
    kept = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert kept == [format.name_of(step) for step in (5, 9, 12, 14)], "a phase ends with a checkpoint, which stays"
    start = launching.metrics(run, "start")[0]
    assert (start["steps"], start["phases"]) == (14, {"stable": 5, "long": 4, "decay": 5})


def test_rows_follow_each_other_through_phases_of_the_same_rows(phased: PhasedRuns) -> None:
    """Phases of the same rows continue their order: no row comes twice before all have come."""
    same = {"batch": {"global_size": 8}, "masking": {}, "rows": {}, "objective": "masked_lm", "mix": {}}
    run = phased.here("same rows", *(one | same for one in PHASES))
    alone = phased.here("one phase", STABLE | same | {"duration": "14 steps"})
    found, expected = ([(line["samples"], line["tokens"]) for line in lines_of(each)] for each in (run, alone))
    assert found == expected
    masked = [[line["masked_tokens"] for line in lines_of(each)] for each in (run, alone)]
    assert masked[0] == masked[1]


@pytest.mark.parametrize("step", [2, 5, 6, 8, 9, 12])
def test_resume_from_any_phase_and_from_its_end_is_exact(phased: PhasedRuns, step: int) -> None:
    name = f"resumed {step}"
    point = format.name_of(step)
    source = phased.folder / ("every" if step not in (5, 9, 12) else "whole")
    if not source.exists():
        phased.here("every", *PHASES, more=("--checkpoint.keep_last=100",))
    phased.here(name, *PHASES, more=(f"--checkpoint.resume={source / 'checkpoints' / point}",))
    assert lines_of(phased.folder / name) == lines_of(phased.folder / "whole")
    assert phased.weights(name) == phased.weights("whole")


def test_branches_cost_only_their_own_phase(phased: PhasedRuns) -> None:
    """Three decays from one stable run have the losses of three whole runs."""
    stable = phased.here("stable", STABLE)
    end = stable / "checkpoints" / format.name_of(5)
    faster = {"optim": {"lr": 0.001, "schedule": "linear"}}
    decays = {"slow": DECAY, "fast": DECAY | faster, "short": DECAY | {"duration": "3 steps"}}
    for name, decay in decays.items():
        whole = phased.here(f"{name} whole", STABLE, decay)
        branch = phased.here(f"{name} branch", STABLE, decay, more=(f"--checkpoint.resume={end}",))
        assert lines_of(branch) == lines_of(whole), "the branch has the metrics of the run it began from"
        assert lines_of(branch, "validation") == lines_of(whole, "validation")
        assert phased.weights(f"{name} branch") == phased.weights(f"{name} whole")
        assert launching.metrics(branch, "start")[-1]["resumed_from"] == 5
    assert {path.name for path in (stable / "checkpoints").iterdir()} == {format.name_of(4), format.name_of(5)}


def test_branch_that_was_interrupted_resumes_from_its_own_checkpoint(phased: PhasedRuns) -> None:
    end = phased.folder / "whole" / "checkpoints" / format.name_of(9)
    more = (f"--checkpoint.resume={end}",)
    phased.here("branch", *PHASES[:2], DECAY | {"duration": "2 steps"}, more=more)
    done = launching.here("train", *phased.flags("branch", *PHASES), *more)
    assert "this run has checkpoints of its own" in done.log
    assert launching.metrics(phased.folder / "branch", "start")[-1]["resumed_from"] == 11


def test_finished_run_is_extended_by_a_phase(phased: PhasedRuns) -> None:
    phased.here("extended", STABLE)
    extended = launching.here("train", *phased.flags("extended", STABLE, LONG))
    assert "phase long from step 6: " in extended.log and "phase stable from" not in extended.log
    again = launching.here("train", *phased.flags("extended", STABLE, LONG))
    assert "phase long from" not in again.log  # it trains no step
    phased.here("extended", *PHASES)
    assert [line["loss"] for line in lines_of(phased.folder / "extended")] == [
        line["loss"] for line in lines_of(phased.folder / "whole")
    ]
    assert phased.weights("extended") == phased.weights("whole")


def test_run_of_one_source_is_extended_by_another(phased: PhasedRuns) -> None:
    """The tokenizer is named, because one that is trained on both sources is another one."""
    tokenizer = ("--tokenizer.train_vocab_size=null", f"--tokenizer.path={phased.folder / 'whole' / 'model'}")
    flags = phased.flags("one source", STABLE | {"mix": {"own": 1.0}})
    launching.here("train", *(flag for flag in flags if "sources.other" not in flag), *tokenizer)
    run = phased.here("one source", STABLE | {"mix": {"own": 1.0}}, DECAY | {"mix": STABLE["mix"]}, more=tokenizer)
    assert launching.metrics(run, "start")[-1]["resumed_from"] == 5
    assert lines_of(run)[-1]["step"] == 10


def test_phase_that_has_begun_must_not_change(phased: PhasedRuns) -> None:
    with pytest.raises(CheckpointError, match=r"^phases\.long\.batch\.global_size: .* with 4, now it is 8"):
        phased.here("whole", STABLE, LONG | {"batch": {"global_size": 8}}, DECAY)


def test_rotary_base_of_a_phase_is_that_of_its_weights_everywhere(phased: PhasedRuns) -> None:
    """In the run, when it is resumed, in its model, and where a checkpoint is evaluated or continued."""
    rotary_model = ("--model.name_or_path=modernbert-tiny", "--model.overrides={}")
    phases = [STABLE | {"duration": "2 steps"}, DECAY | {"duration": "4 steps", "model": {"rope_theta": 10.0}}]
    run = phased.here("rotary", *phases, more=(*rotary_model, "--checkpoint.keep_last=9"))
    end = run / "checkpoints" / format.name_of(6)

    def evaluated(model: Path | str, *more: str) -> float:
        flags = (f"--output_dir={run}", "--validation.sentences=0", *more)
        return float(launching.here("validate", f"--validation.model={model}", *flags, of_a_run=True).result["loss"])

    last = lines_of(run, "validation")[-1]
    assert last["step"] == 6
    assert [evaluated(model) for model in ("model", "checkpoint", end)] == pytest.approx([last["loss"]] * 3, rel=5e-6)
    assert evaluated("start") == pytest.approx(lines_of(run, "validation")[0]["loss"], rel=5e-6)
    assert rotary.theta_of(saved_config.read(pretrained.locate(str(end), "model.name_or_path"))) == 10
    first = pretrained.locate(str(run / "checkpoints" / format.name_of(2)), "model.name_or_path")
    assert rotary.theta_of(saved_config.read(first)) != 10
    resume = f"--checkpoint.resume={run / 'checkpoints' / format.name_of(4)}"
    phased.here("rotary again", *phases, more=(*rotary_model, resume))
    assert phased.weights("rotary again") == phased.weights("rotary")


def test_phase_that_ends_within_skipped_steps_has_its_checkpoint(phased: PhasedRuns) -> None:
    flags = phased.flags("skipped", STABLE | {"duration": "5 steps"}, DECAY)
    launching.here("train", *flags, "--checkpoint.every=100", MLM_DIST_FAULT=",".join(f"nan@{i}" for i in range(3, 7)))
    kept = sorted(path.name for path in (phased.folder / "skipped" / "checkpoints").iterdir())
    assert kept == [format.name_of(5), format.name_of(10)]


def test_run_that_its_patience_ended_says_so_and_takes_no_more_phases(phased: PhasedRuns) -> None:
    worse = {"name": "worse", "duration": "60 steps", "optim": {"lr": 0.5, "schedule": "constant"}}
    more = ("--validation.every=1", "--validation.patience=1", "--checkpoint.every=100")
    run = phased.here("patient", worse, more=more)
    (end,) = launching.metrics(run, "end")
    assert end["stopped_early"] and end["step"] < 60
    done = launching.here("train", *phased.flags("patient", worse), *more)
    assert f"the run is finished: validation.patience 1 ended it at step {end['step']}" in done.log
    with pytest.raises(
        CheckpointError, match=r"^validation\.patience: 1 ended the run at .*, so phase decay would not"
    ):
        phased.here("patient", worse, DECAY, more=more)


def test_what_a_phase_freezes_keeps_its_values(phased: PhasedRuns) -> None:
    from safetensors.torch import load_file

    run = phased.here("frozen", *FROZEN, more=("--checkpoint.keep_last=100",))
    at = {step: load_file(run / "checkpoints" / format.name_of(step) / "model.safetensors") for step in (2, 5, 10)}
    (table,) = [name for name in at[2] if name.endswith("word_embeddings.weight")]

    def same(first: int, last: int) -> set[str]:
        return {name for name, value in at[first].items() if torch.equal(value, at[last][name])}

    assert same(2, 5) == {table}
    kept = {name for name in at[2] if re.search(r"\.embeddings\.|encoder\.layer\.0\.", name)}
    assert same(5, 10) == kept and any("layer.0." in name for name in kept)


def test_micro_batch_of_validation_has_no_more_tokens_than_one_of_training(
    phased: PhasedRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation uses the rows of the run, of 64 tokens."""
    sizes: list[int] = []
    evaluate = ValidationSet.evaluate

    def spy(self: ValidationSet, engine: Any, objective: Any, micro_size: int, **more: Any) -> Any:
        sizes.append(micro_size)
        return evaluate(self, engine, objective, micro_size, **more)

    monkeypatch.setattr(ValidationSet, "evaluate", spy)
    short = {"name": "short", "duration": "1 steps", "rows": {"max_length": 32}}
    before, _ = lines_of(phased.here("short rows", short), "validation")
    assert sizes == [4, 4], "a micro-batch of training has 8 rows of 32 tokens"
    assert before["loss"] == pytest.approx(lines_of(phased.folder / "whole", "validation")[0]["loss"], rel=3e-6)


def test_phase_in_hours_ends_and_the_next_begins(phased: PhasedRuns) -> None:
    run = phased.here("hours", STABLE | {"duration": "0.0005 hours"}, DECAY)
    train = lines_of(run)
    first = sum(line["phase"] == "stable" for line in train)
    assert first > 1 and [line["phase"] for line in train[first:]] == ["decay"] * 5
    assert [line["steps"] for line in train[first - 1 :]] == [first + 5] * 6
    record = read_record(run)
    assert record.is_finished and record.steps == first + 5
    assert record.start["hours"] == 0.0005, "steps are no hours"
    saved_starts = format.read_state(max((run / "checkpoints").iterdir()))["phases"]
    assert saved_starts == [[0, 0], [first, 8 * first]]
    resumed = phased.here(
        "hours again",
        STABLE | {"duration": "0.0005 hours"},
        DECAY,
        more=(f"--checkpoint.resume={run / 'checkpoints' / format.name_of(first)}",),
    )
    assert lines_of(resumed)[first:] == train[first:]


TOPOLOGIES = {"two": ("cpu_2", 2), "zero2": ("zero2", 2), "fsdp2": ("fsdp2_cpu", 2)}


def launch(phased: PhasedRuns, name: str, topology: str, *phases: dict[str, Any], fault: str = "") -> launching.Ended:
    """A run of phases, by default three, on several processes."""
    file, processes = TOPOLOGIES[topology]
    return launching.accelerate(
        *(file, "train.py", *phased.flags(name, *(phases or PHASES))),
        launch=(f"--num_processes={processes}", "--mixed_precision=no"),
        MLM_DIST_FAULT=fault,
    )


@pytest.mark.slow
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_phases_have_the_same_losses_on_any_topology(phased: PhasedRuns, topology: str) -> None:
    ended = launch(phased, topology, topology)
    assert ended.returncode == 0, ended.output
    found, expected = (lines_of(phased.folder / name) for name in (topology, "whole"))
    for exact in ("step", "samples", "tokens", "masked_tokens", "learning_rate", "phase"):
        assert [line[exact] for line in found] == [line[exact] for line in expected]
    losses, wanted = ([line["loss"] for line in each] for each in (found, expected))
    assert losses == pytest.approx(wanted, rel=3e-6)


@pytest.mark.slow
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_what_a_phase_freezes_is_the_same_on_any_topology(phased: PhasedRuns, topology: str) -> None:
    from safetensors.torch import load_file

    one, several = phased.here(f"frozen on one, {topology}", *FROZEN), f"frozen on {topology}"
    ended = launch(phased, several, topology, *FROZEN)
    assert ended.returncode == 0, ended.output
    for kind in ("train", "validation"):
        found, wanted = ([line["loss"] for line in lines_of(each, kind)] for each in (phased.folder / several, one))
        assert found == pytest.approx(wanted, rel=3e-6)
    ends = [phased.folder / several / "checkpoints" / format.name_of(step) for step in (5, 10)]
    before, after = (load_file(end / "model.safetensors") for end in ends)
    kept = {name for name, value in before.items() if torch.equal(value, after[name])}
    assert kept == {name for name in before if re.search(r"\.embeddings\.|encoder\.layer\.0\.", name)}


@pytest.mark.slow
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_run_killed_in_each_phase_and_at_their_ends_ends_bit_equal(phased: PhasedRuns, topology: str) -> None:
    whole, killed = f"{topology} not killed", f"{topology} killed"
    assert launch(phased, whole, topology).returncode == 0
    for step in (3, 4, 5, 7, 8, 9, 12):  # in each phase, in its last step, and in the first of the next
        assert launch(phased, killed, topology, fault=f"mid_step@{step}").returncode != 0
    assert launch(phased, killed, topology).returncode == 0
    assert lines_of(phased.folder / killed) == lines_of(phased.folder / whole)
    assert phased.weights(killed) == phased.weights(whole)
