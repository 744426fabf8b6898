"""The report: what it shows of runs in every state, its cloze examples, and that it is one safe file."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import launching
import pytest
import torch
from models import architecture, build, rate_spec
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

from mlm_dist import report, train
from mlm_dist.config import Config, parse, parse_of_run, to_dict
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.engine.launch import Launch
from mlm_dist.errors import ConfigError
from mlm_dist.evaluation import cloze
from mlm_dist.evaluation.cloze import ClozeExample, choose_examples
from mlm_dist.evaluation.fill_mask import Prediction, predict
from mlm_dist.evaluation.word_contexts import WordContexts
from mlm_dist.pages.charts import Series, chart
from mlm_dist.pages.curves import curves
from mlm_dist.pages.documents import Sample, dropped_names
from mlm_dist.pages.examples import Comparison
from mlm_dist.pages.page import Content, page
from mlm_dist.pages.record import Record, read_record
from mlm_dist.pages.resolved import PlannedRate
from mlm_dist.pages.run_facts import run_facts
from mlm_dist.pages.run_page import LivePage
from mlm_dist.pages.scales import Scale
from mlm_dist.pages.starting_point import StartingPoint
from mlm_dist.resolve import resolve
from mlm_dist.run_dir import RunDir
from mlm_dist.training.callbacks import Callback

EMPTY = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source"}


class Page(HTMLParser):
    """A parsed page: its text, and its tags with their attributes; unbalanced tags fail."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("style", "script"):
            self.text += f"{data} "


def config_of(run: Path) -> Config:
    return parse_of_run(["--output_dir", str(run)], prog="report.py")


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]


def write_lines(run: Path, values: list[dict[str, Any]]) -> None:
    run.mkdir(exist_ok=True)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in values), "utf-8")


def words_of(html: str) -> str:
    """The text of a page, with single spaces."""
    return " ".join(Page(html).text.split())


def test_training_writes_one_file_without_external_resources(run: Path) -> None:
    html = (run / "report.html").read_text("utf-8")
    text = words_of(html)
    for title in ("Before and after training", "Loss", "Learning rate", "Gradient norm", "Tokens per second"):
        assert title in text
    assert "finished after 12 steps" in text
    assert "No step was skipped: all values were finite." in text
    assert "documents dropped: under 200 characters 1" in text
    assert_safe(html)


def assert_safe(html: str) -> None:
    """A page makes no request, and runs no script but the one whose hash its policy names."""
    parsed = Page(html)
    assert {"link", "iframe", "object", "embed", "img"}.isdisjoint(tag for tag, _ in parsed.tags)
    ids = {attributes["id"] for _, attributes in parsed.tags if "id" in attributes}
    for _, attributes in parsed.tags:
        assert not {"src", "srcset", "data", "action"} & attributes.keys()
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("href") is None or str(attributes["href"]).removeprefix("#") in ids, "a link elsewhere"
    assert "@import" not in html
    assert "url(" not in html
    (script,) = re.findall("<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = (one["content"] for _, one in parsed.tags if one.get("http-equiv") == "Content-Security-Policy")
    expected = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-"
    assert policy == f"{expected}{digest}'"


def test_page_is_accessible_to_screen_readers(run: Path) -> None:
    parsed = Page((run / "report.html").read_text("utf-8"))
    tags = [tag for tag, _ in parsed.tags]
    assert tags.count("h1") == 1
    assert tags.count("caption") == tags.count("table") > 3
    charts = [attributes for tag, attributes in parsed.tags if tag == "svg"]
    assert len(charts) == 7, "five, two of them also on a logarithmic scale"
    assert all(attributes["role"] == "img" and "at step" in str(attributes["aria-label"]) for attributes in charts)
    assert ("html", {"lang": "en"}) in parsed.tags


def test_predictions_before_training_follow_from_seed_and_config(run: Path) -> None:
    """So a resumed run without its report.json gets the same ones again."""
    config = config_of(run)
    corpus = PreparedCorpus(Path(config.corpus.cache_dir) / lines(run)[0]["corpus"])
    model = build(config, architecture(config, corpus.tokenizer))
    start = StartingPoint.load(run / "report.json")
    assert len(start.examples) >= 5
    assert start.examples == choose_examples(corpus.documents(), corpus.tokenizer, 64)
    again = json.loads(json.dumps([asdict(one) for one in predict(model, corpus.tokenizer, start.examples)]))
    for one, other in zip(start.before, again, strict=True):
        assert [text for text, _ in one.top] == [text for text, _ in other["top"]]
        assert one.probability == pytest.approx(other["probability"], abs=1e-5)


def test_resumed_run_keeps_its_starting_point(copy: Path) -> None:
    config = config_of(copy)
    corpus = PreparedCorpus(Path(config.corpus.cache_dir) / lines(copy)[0]["corpus"])
    model = build(config, architecture(config, corpus.tokenizer))
    kept = (copy / "report.json").read_text("utf-8")
    report.before_training(RunDir(copy), None, corpus)  # without a model, because none is needed
    assert (copy / "report.json").read_text("utf-8") == kept
    (copy / "report.json").unlink()
    report.before_training(RunDir(copy), model, corpus)
    assert json.loads((copy / "report.json").read_text("utf-8"))["examples"] == json.loads(kept)["examples"]


def test_predictions_are_those_of_the_fill_mask_pipeline(run: Path) -> None:
    text = Page((run / "report.html").read_text("utf-8")).text
    fill = pipeline("fill-mask", model=str(run / "model"))
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    model = AutoModelForMaskedLM.from_pretrained(run / "model", dtype=torch.float32)
    examples = StartingPoint.load(run / "report.json").examples
    compared = 0
    for example, prediction in zip(examples, predict(model, tokenizer, examples), strict=True):
        assert example.word in text
        if len(example.encode(tokenizer)[1]) == 1:
            masked = example.sentence[: example.start] + tokenizer.mask_token + example.sentence[example.end :]
            expected = fill(masked)
            assert [text for text, _ in prediction.top] == [one["token_str"] for one in expected]
            probabilities = [probability for _, probability in prediction.top]
            assert probabilities == pytest.approx([one["score"] for one in expected], abs=1e-5)
            compared += 1
    assert compared >= 3


def test_running_run_shows_its_newest_checkpoint(copy: Path) -> None:
    write_lines(copy, [line for line in lines(copy) if line["kind"] != "end" and line.get("step", 0) <= 8])
    shutil.rmtree(copy / "model")
    shutil.rmtree(copy / "checkpoints" / "step-00000012")
    report.run(config_of(copy))
    text = words_of((copy / "report.html").read_text("utf-8"))
    assert "at step 8 of 12, running or interrupted" in text
    assert "Before training Step 6" in text


def test_job_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"output_dir: .* has no metrics\.jsonl"):
        report.run(parse_of_run(["--output_dir", str(tmp_path)], prog="report.py"))


def test_page_is_live_while_training(prose: Path, tmp_path: Path) -> None:
    """It is written at each validation, in a thread; a callback of the user sees it before the end."""
    seen: list[str] = []

    class Look(Callback):
        def on_end(self, step: int, *, is_finished: bool) -> None:
            for _ in range(6000):
                if (tmp_path / "run" / "report.html").exists():
                    break
                time.sleep(0.01)
            seen.append((tmp_path / "run" / "report.html").read_text("utf-8"))

    flags = (f"--corpus.source={prose}", f"--corpus.cache_dir={prose.parent / 'prose-cache'}", *launching.SHORT)
    train.run(parse([f"--output_dir={tmp_path / 'run'}", "--tracking.trackers=[]", *flags]), [Look()])
    (live,) = seen
    assert re.search(r"still running, step \d+ of 12", words_of(live))
    assert '<meta http-equiv="refresh"' in live
    assert_safe(live)
    final = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "finished after 12 steps" in words_of(final)
    assert "refresh" not in final
    assert not [thread for thread in threading.enumerate() if thread.name == "report"]


def test_page_of_an_interrupted_run_says_how_to_resume_it(copy: Path) -> None:
    """Without predictions of a trained model, which take time."""
    stopped = [line for line in lines(copy) if line.get("step", 0) <= 8 and line["kind"] != "end"]
    write_lines(copy, [*stopped, {"kind": "end", "step": 8, "seconds": 1.0}])
    report.after_training(RunDir(copy), resolve(config_of(copy), Launch.read()), is_finished=False)
    text = words_of((copy / "report.html").read_text("utf-8"))
    assert "stopped at step 8 of 12" in text
    assert f"mlm-dist train --config {copy.resolve() / 'config.yaml'}" in text
    assert "there is no trained model yet" in text


def test_failure_of_the_live_page_does_not_end_the_run(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    live = LivePage(RunDir(copy), to_dict(config_of(copy)))
    (copy / "metrics.jsonl").unlink()
    live.on_validation(6, {})
    live.on_end(12, is_finished=True)
    assert "the report is not written (output_dir:" in caplog.text


def test_programs_of_the_page_run_as_they_are_written(run: Path, tmp_path: Path) -> None:
    """From any folder; the first one shows the sentence of the first example."""
    html = (run / "report.html").read_text("utf-8")
    programs = [unescape(one) for one in re.findall('<pre class="copy"><code>(from .*?)</code>', html, re.DOTALL)]
    assert len(programs) == 2
    example = StartingPoint.load(run / "report.json").examples[0]
    assert repr(example.sentence[: example.start]) in programs[0]
    ended = launching.run([sys.executable, "-c", "\n".join(programs)], cwd=tmp_path)
    assert ended.returncode == 0, ended.output
    assert re.search(r"\d+\.\d%  \w", ended.stdout)
    assert re.search(r"\(2, \d+\)", ended.stdout)


def test_dropped_documents_are_named_and_cleaned_ones_shown(run: Path) -> None:
    html = (run / "report.html").read_text("utf-8")
    text = words_of(html)
    assert "under 200 characters: 1 short.txt" in text
    corpus = PreparedCorpus(Path(config_of(run).corpus.cache_dir) / lines(run)[0]["corpus"])
    id_, _, document = next(corpus.documents("train"))
    assert f"{id_} {len(document):,} characters" in text
    assert " ".join(document[:200].split()) in text


def test_dropped_documents_are_counted_and_the_listed_ones_named() -> None:
    manifest = {
        "sources": [{"dropped": {"link": 3, "empty": 50}}, {"dropped": {}}],
        "documents": {"dropped": {"empty": 200, "duplicate": 1}},
        "dropped": {"empty": ["1.md", "2.md"], "duplicate": ["b.md"], "link": ["l"]},
        "duplicates": {"a.md": ["b.md"]},
    }
    found = dropped_names(manifest)
    assert found["empty"] == {"count": 250, "names": ["1.md", "2.md"]}
    assert found["duplicate"] == {"count": 1, "names": ["b.md (of a.md)"]}
    assert found["link"] == {"count": 3, "names": ["l"]}


def test_right_words_are_counted_for_the_end_of_the_log(copy: Path) -> None:
    ((name, text),) = report.after_training(RunDir(copy), resolve(config_of(copy), Launch.read()))
    after, total, before = map(int, re.findall(r"\d+", text.replace("first 5", "")))
    page = " ".join(re.sub(r"<[^>]+>", " ", (copy / "report.html").read_text("utf-8")).split())
    assert name == "examples" and f"Right word among the top 5 {before} → {after} of {total}" in page


def test_failures_are_logged_and_do_not_end_the_run(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    run_dir, spec = RunDir(copy), resolve(config_of(copy), Launch.read())
    (copy / "report.json").write_text("{", "utf-8")
    report.after_training(run_dir, spec)
    assert "report.html: report.json cannot be read" in caplog.text
    assert "report.json cannot be read" in (copy / "report.html").read_text("utf-8")
    (copy / "metrics.jsonl").unlink()
    report.after_training(run_dir, spec)
    assert "the report is not written (output_dir:" in caplog.text
    (copy / "report.json").unlink()
    report.before_training(RunDir(copy), None, PreparedCorpus(copy / "nowhere"))
    assert "the predictions of the starting model are not recorded (FileNotFoundError" in caplog.text
    assert {record.levelname for record in caplog.records if record.name.startswith("mlm_dist")} == {"WARNING"}


def test_report_json_with_other_content_is_named(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    run_dir, spec = RunDir(copy), resolve(config_of(copy), Launch.read())
    for content in ('{"corpus": {}}', '{"corpus": {}, "examples": [{"text": 1}], "before": []}', "[]"):
        (copy / "report.json").write_text(content, "utf-8")
        caplog.clear()
        report.after_training(run_dir, spec)
        assert "report.json cannot be read (unexpected content" in caplog.text


START = {"kind": "start", "model": "bert", "steps": 20, "unigram_loss": 6.0, "resumed_from": 0, "version": "0"}
BY_THE_CLOCK = {name: value for name, value in START.items() if name != "steps"} | {"hours": 2.0}
OTHER_ROWS = START | {"validation_rows": 9, "validation_rows_total": 9, "resumed_from": 5}  # from there on


def train_line(step: int, loss: float | None, **more: Any) -> dict[str, Any]:
    line = {"step": step, "loss": loss, "learning_rate": 1e-3, "grad_norm": loss, "tokens_per_second": 10.0}
    return {"kind": "train", **line, "skipped_steps": 0, **more}


def validation(step: int, loss: float | None) -> dict[str, Any]:
    return {"kind": "validation", "step": step, "loss": loss, "perplexity": loss, "accuracy": 0.5, "masked_tokens": 9}


BANDS = {"accuracy_rare": 0.125, "masked_tokens_rare": 8, "accuracy_domain": None, "masked_tokens_domain": 0}
OF_SOURCES = {
    **{"source_own_loss": 1.5, "source_own_accuracy": 0.75, "source_own_masked_tokens": 2},
    **{"source_more_loss": 4.5, "source_more_accuracy": 0.25, "source_more_masked_tokens": 7},
}
EARLY = {"kind": "end", "step": 9, "seconds": 3.0, "best_step": 3, "best_loss": 2.0, "stopped_early": True}
EARLY_RUN = [START, validation(0, 7.0), validation(3, 2.0), validation(9, 5.0), EARLY]
STATES = {
    "nothing": ([], "Nothing is recorded yet"),
    "just started": ([START], "at step 0 of 20"),
    "one point": ([START, validation(0, 7.0)], "7 unigram baseline 6"),
    "no validation": ([START, train_line(10, 5.0), train_line(20, 4.0)], "training unigram baseline"),
    "not a number": (
        [START, validation(0, None), train_line(1, None), train_line(2, 3.0), train_line(3, None)],
        "not finite",
    ),
    "no finite value": ([START, train_line(1, None)], "Gradient norm No recorded value is finite."),
    "all the same": ([START, train_line(1, 0.0), train_line(2, 0.0)], "Gradient norm"),
    "far apart": ([START, train_line(1, 1e-6), train_line(2, 1e9)], "linear log"),
    "skipped": (
        [START, train_line(1, 2.0, skipped_steps=1), train_line(2, 2.0, skipped_steps=3)],
        "Skipped steps, in total",
    ),
    "none skipped": ([START, train_line(1, 2.0)], "No step was skipped"),
    "a spike": ([START, train_line(1, 2.0), train_line(2, 90.0, spike=True)], "The loss spiked at step 2."),
    "stopped": ([START, train_line(5, 2.0), {"kind": "end", "step": 5}], "stopped at step 5 of 20"),
    "bands": ([START, validation(0, 3.0) | BANDS, validation(9, 2.0) | BANDS], "never saw 12.5% 12.5% 8"),
    "several sources": (
        [START | {"validation_only": ["more"]}, validation(0, 3.0) | OF_SOURCES, validation(9, 2.0) | OF_SOURCES],
        "own 1.5 1.5 75% 75% 2 more (not trained on) 4.5 4.5 25% 25% 7",
    ),
    "lines of sources": (
        [START, validation(0, 3.0) | OF_SOURCES, validation(9, 2.0) | OF_SOURCES],
        "validation own more unigram baseline",
    ),
    "a source that was added": ([START, validation(0, 3.0), validation(9, 2.0) | OF_SOURCES], "more — 4.5 — 25% 7"),
    "stopped early": (EARLY_RUN, "stopped early at step 9 of 20 in 3 s"),
    "best is shown": (EARLY_RUN, "7 \u2192 2"),
    "resumed": ([START, train_line(5, 2.0), START | {"resumed_from": 5}, train_line(9, 1.0)], "resumed at step 5"),
    "on other rows": (
        [START, validation(0, 9.0), validation(5, 8.0), OTHER_ROWS, validation(7, 4.0), validation(9, 3.0)],
        "Validation loss 4 \u2192 3 unigram baseline 6",
    ),
    "on other rows, by step": (
        [START, validation(0, 9.0), OTHER_ROWS, validation(9, 3.0)],
        "0 (other rows) 9",
    ),
    "by the clock": ([BY_THE_CLOCK, train_line(1, 2.0, steps=None, hours=0.0)], "at step 1, running"),
    "by the clock, estimated": ([BY_THE_CLOCK, train_line(4, 2.0, steps=30, hours=0.1)], "at step 4 of 30, running"),
    "by the clock, shortened": (
        [BY_THE_CLOCK, train_line(4, 2.0, steps=30, hours=0.1), {"kind": "end", "step": 4, "steps": 4}],
        "finished after 4 steps",
    ),
    "by the clock, in phases": (
        [BY_THE_CLOCK | {"phases": {"stable": None, "decay": 100}}, train_line(4, 2.0, steps=None)],
        "duration 2 hours and 100 steps",
    ),
    "long": ([START, *(train_line(step, 1 / step) for step in range(1, 5000))], "training"),
}


@pytest.mark.parametrize("name", list(STATES))
def test_runs_in_every_state(name: str, tmp_path: Path) -> None:
    metrics, expected = STATES[name]
    write_lines(tmp_path, metrics)
    html = page(Content("run", read_record(tmp_path)))
    assert expected in words_of(html)
    drawings = " ".join(re.findall(r'(?: d| cx| cy| x| y)="([^"]*)"', html))
    assert "nan" not in drawings
    assert "inf" not in drawings
    numbers = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", drawings)]
    assert all(-1 <= number <= 400 for number in numbers), "something is drawn outside its chart"
    assert len(html) < 120_000


@pytest.mark.parametrize(
    ("name", "sections"),
    [
        ("nothing", []),
        ("just started", ["Run"]),
        ("one point", ["Curves", "Validation", "Run"]),
        ("no validation", ["Curves", "Run"]),
    ],
)
def test_empty_sections_and_charts_are_not_shown(name: str, sections: list[str], tmp_path: Path) -> None:
    write_lines(tmp_path, STATES[name][0])
    html = page(Content("run", read_record(tmp_path)))
    assert re.findall("<h2>(.*?)</h2>", html) == sections
    assert re.findall("<h3>(.*?)</h3>", html) == {
        "one point": ["Loss", "Validation accuracy"],
        "no validation": ["Loss", "Learning rate", "Gradient norm", "Tokens per second"],
    }.get(name, [])
    assert "<tbody></tbody>" not in html


def test_numbers_of_the_start_line_are_put_into_words() -> None:
    start = {
        **{"version": "0.2.0", "corpus": "a2c2", "model": "bert-tiny", "from_scratch": True, "parameters": 1007744},
        **{"masked_head": True, "compile": "none", "world_size": 2, "device": "cuda", "sharding": "zero2"},
        **{"offload": ["optimizer"], "precision": "bf16", "global_batch": 16, "micro_batch": 4, "accumulation": 2},
        **{"rows": 3982, "samples": 192, "steps": 12, "warmup_steps": 1, "peak_learning_rate": 0.003},
        **{"optimizer": "adamw", "schedule": "linear", "unigram_loss": 6.25231, "resumed_from": 0, "kind": "start"},
        **{"mix_own": 0.75, "mix_more": 0.25, "validation_only": ["prose"], "tokens_per_row": 48},
    }
    assert run_facts(Record(start, [], {}, {}, None)) == {
        "model": "bert-tiny, from random weights",
        "parameters": "1,007,744",
        "processes": "2 processes on cuda, ZeRO-2, optimizer state offloaded to the host, precision bf16",
        "batch": "16 rows per step = 4 x 2 x 2 (micro-batch x accumulation x processes)",
        "training rows": "3,982",
        "duration": "12 steps, 192 rows, 1 warm-up step",
        "optimizer": "adamw, linear schedule, peak learning rate 0.003",
        "logits": "at masked positions only",
        "compilation": "off",
        "corpus": "a2c2",
        "mix of sources": "own 0.75, more 0.25",
        "validation only": "prose",
        "unigram baseline": "loss 6.2523",
        "mlm_dist": "0.2.0",
        "tokens per row": "48",
    }
    clock = {"model": "bert", "from_scratch": False, "masked_head": False, "compile": "layers", "hours": 1.5}
    assert run_facts(Record(clock, [], {}, {}, None)) == {
        "model": "bert, from pretrained weights",
        "duration": "1.5 hours",
        "logits": "at all positions",
        "compilation": "layers",
    }
    assert run_facts(Record({}, [], {}, {}, None)) == {}


FIGURE = {"mean": 0.5, "low": 0.25, "high": 0.75}
TASK: dict[str, Any] = {
    **{"queries": 20, "passages": 1, "relevant_training_documents": 3},
    "models": {name: {"mrr": FIGURE} for name in ("bm25", "start", "trained")},
    "trained_minus": {
        "start": {"mrr": FIGURE | {"excludes_zero": True}},
        "bm25": {"mrr": {"mean": -0.5, "low": -0.75, "high": 0.25, "excludes_zero": False}},
    },
}


def test_results_of_the_validate_job_are_shown(tmp_path: Path) -> None:
    write_lines(tmp_path, [START, validation(0, 3.0), validation(9, 2.0)])
    tasks = {"model": "m", "step": 9, "tasks": {"title": TASK}}
    sentences = {"pseudo_log_likelihood": -2.5, "pseudo_perplexity": 12.18, "sentences": 64, "sentence_tokens": 900}
    record = read_record(tmp_path)
    text = words_of(page(Content("run", record, validation={"model": "m"} | sentences, tasks=tasks)))
    assert "model m pseudo-log-likelihood, nats per token -2.5 pseudo-perplexity 12.18 sentences 64 tokens 900" in text
    assert (
        "find the body of a document by its title, 20 queries, 1 passage, 3 relevant documents that the model" in text
    )
    assert "The model after training is m, step 9." in text
    assert "BM25 before training after training after minus before after minus BM25 MRR 0.500 (0.250 to 0.750)" in text
    assert "+0.500 (+0.250 to +0.750) * -0.500 (-0.750 to +0.250)" in text
    start: dict[str, Any] = {"models": {"start": TASK["models"]["start"]}, "trained_minus": {}}
    only_start = {"model": "m", "step": None, "tasks": {"title": start}}
    assert "Only the starting model was evaluated" in words_of(page(Content("run", record, tasks=only_start)))
    plain = page(Content("run", record))
    assert "Task:" not in plain
    assert "masked in turn" not in plain


def test_files_of_the_validate_job_are_read_or_named(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    tasks = {"model": "m", "step": 9, "tasks": {"half": TASK | {"queries": 4}}}
    (copy / "tasks.json").write_text(json.dumps(tasks), "utf-8")
    (copy / "validation.json").write_text("{", "utf-8")
    report.run(config_of(copy))
    html = (copy / "report.html").read_text("utf-8")
    assert "find the second half of a document by the first, 4 queries" in html
    assert "validation.json cannot be read" in caplog.text


def test_learning_rate_is_drawn_from_step_0_along_its_schedule(tmp_path: Path) -> None:
    write_lines(tmp_path, [START, train_line(10, 5.0, learning_rate=0.5)])
    rate = rate_spec(lr=1.0, warmup=4, schedule="linear")
    rates = next(one for one in curves(read_record(tmp_path), [PlannedRate(rate, 20)]) if one.title == "Learning rate")
    assert rates.description == (
        "Learning rate. schedule: 0.2 at step 0, 0 at step 20; used: 0.5 at step 9, 0.5 at step 9."
    )
    texts = [text for _, _, text in rates.drawings[0].strips]
    assert texts[0] == "step 0\nschedule: 0.2"
    assert "step 9\nschedule: 0.688\nused: 0.5" in texts


def test_every_part_of_a_chart_has_its_values(tmp_path: Path) -> None:
    """They are what the browser shows under the pointer, with the script or without it."""
    metrics = [START, validation(0, 7.0), train_line(5, 6.5), validation(10, 5.0), train_line(10, 4.0)]
    write_lines(tmp_path, metrics)
    loss = curves(read_record(tmp_path))[0]
    assert [drawing.scale for drawing in loss.drawings] == ["linear", "log"]
    for drawing in loss.drawings:
        assert [text for _, _, text in drawing.strips] == [
            "step 0\nvalidation: 7\nunigram baseline: 6",
            "step 5\ntraining: 6.5\nvalidation: 7 (step 0)\nunigram baseline: 6",
            "step 10\ntraining: 4\nvalidation: 5\nunigram baseline: 6",
        ]
        starts = [float(x) for x, _, _ in drawing.strips]
        ends = [float(x) + float(width) for x, width, _ in drawing.strips]
        assert ends == pytest.approx([*starts[1:], 386.0], abs=0.11)
        assert [float(y) for y, _ in drawing.y_ticks] == sorted((float(y) for y, _ in drawing.y_ticks), reverse=True)
        assert len(drawing.y_ticks) >= 2


@pytest.mark.parametrize(("low", "high"), [(3.9, 4.1), (3.0, 8.0), (0.5, 300.0), (1e-6, 1e9), (1e-3, 1.1e-3)])
def test_logarithmic_scale_has_round_numbers_within_it(low: float, high: float) -> None:
    scale = Scale(10, low, high, is_log=True)
    assert 2 <= len(scale.ticks) <= 10
    assert all(scale.y(before) > scale.y(after) for before, after in itertools.pairwise(scale.ticks))
    assert scale.y(low) > scale.y(high)


def test_later_lines_of_the_same_step_count(tmp_path: Path) -> None:
    write_lines(
        tmp_path, [START, train_line(5, 9.0), validation(5, 8.0), START | {"resumed_from": 4}, train_line(5, 1.0)]
    )
    record = read_record(tmp_path)
    assert record.train[5]["loss"] == 1.0
    assert record.validation[5]["loss"] == 8.0
    assert record.resumed == [4]
    assert record.end is None


def test_nan_breaks_a_line_and_single_points_are_dots() -> None:
    drawn = chart("Loss", [Series("loss", [(1, 1.0), (2, 2.0), (3, None), (4, 3.0), (5, None)])], str)
    assert drawn is not None
    ((_, path, dots),) = drawn.drawings[0].lines
    assert path.count("M") == 2
    assert path.count("L") == 1
    assert len(dots) == 1


def test_text_is_escaped(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>\"'&</style><script>"
    write_lines(tmp_path, [START | {"model": evil, evil: evil, "optimizer": evil}, validation(0, 1.0)])
    example = ClozeExample(evil, f"{evil} word {evil}", len(evil) + 1, len(evil) + 5)
    before, after = Prediction([(evil, 0.5)], 0.1, None), Prediction([(evil, 0.5)], 0.1, 1)
    corpus = {
        "sources": [{"name": "", "kind": evil, "location": f"at {evil}", "commit": evil}],
        "documents": {"found": 1, "dropped": {evil: 1}, "train": 0, "validation": 0},
        "tokens": {"kept": 0, "dropped": 0, "padded": 0, "unknown": 0},
        "rows": {"train": 0, "validation": 0},
        "notes": {evil: 1},
        "config": {"rows": {"mode": evil, "max_length": 8}},
    }
    figures = {evil: {evil: FIGURE}}
    tasks = {"model": evil, "tasks": {evil: {"models": figures, "trained_minus": figures}}}
    comparison = Comparison([example], [before], [after], 3)
    corpus["dropped"] = {evil: {"count": 200, "names": [evil]}}
    html = page(
        Content(
            *(evil, read_record(tmp_path), corpus, comparison, evil, [evil], None, tasks),
            samples=[Sample(evil, 10_000, evil)],
            model=evil,
        )
    )
    parsed = Page(html)
    assert parsed.text.count(evil) > 20
    assert_safe(html)
    assert html.count("</style>") == 1


def sentences(split: str) -> Iterator[tuple[str, str, str]]:
    """Forty documents; "the" is in all of them, "kestrel" and "enclave" often in a few of them."""
    for i in range(40):
        if i % 4 == 0:
            text = "The kestrel guards the enclave near the river and the town. " * 5
        else:
            text = "The people and the town walk along near the river to the market. " * 5
        yield f"{i}.md", "validation" if i in (0, 1) else split, text


@pytest.fixture(scope="module")
def tokenizer(finished: Path) -> Any:
    return AutoTokenizer.from_pretrained(finished / "model")


def test_words_of_the_domain_come_first(tokenizer: Any) -> None:
    chosen = choose_examples(sentences("train"), tokenizer, 64)
    assert chosen == choose_examples(sentences("train"), tokenizer, 64)
    assert chosen[0].word in ("kestrel", "enclave", "guards")
    assert {example.document for example in chosen} <= {"0.md", "1.md"}
    assert len({example.sentence for example in chosen}) == len(chosen)
    assert choose_examples(sentences("validation"), tokenizer, 64) == [], "words that no training document holds"
    assert choose_examples(sentences("train"), tokenizer, 8) == [], "sentences longer than a row"


def test_predictability_is_the_share_of_a_word_among_its_neighbours() -> None:
    sentence = "The people go along near the garden with them."
    contexts = WordContexts([sentence])
    for place in ("river", "market", "tower", "garden"):
        for _ in range(30):
            contexts.add(f"They walk along near the {place} with them.")
    rated = {word: contexts.predictability(sentence, sentence.index(word)) for word in ("garden", "near", "go")}
    assert rated == {"garden": 30 / 140, "near": 120 / 140, "go": 0.0}, "twenty other words are assumed"


@pytest.mark.parametrize("i", [0, 1])
def test_the_word_that_its_neighbours_predict_is_chosen(
    i: int, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both words are as important; the choice is the one in the sentence that training documents are like."""
    vocabulary = tokenizer.get_vocab()
    # The last ones, whose ranks differ least in proportion.
    places = sorted((word for word in vocabulary if word.isalpha() and len(word) > 4), key=vocabulary.get)[-4:]
    documents = [
        (f"{n}.md", "train", f"We go to the {places[n % 4]} near the old bridge every day. " * 3) for n in range(40)
    ]
    like, unlike = places[i], places[1 - i]
    text = f"They saw some {unlike} along this narrow street today. We go to the {like} near the old bridge every day."
    monkeypatch.setattr(cloze, "NUM_EXAMPLES", 1)
    (chosen,) = choose_examples([*documents, ("v.md", "validation", text)], tokenizer, 64)
    assert chosen.word == like


def test_stop_words_are_chosen_last(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """ "which" is as frequent as the other words, and its neighbours predict it as well."""
    text = "The harbor keeps which vessel the captain wants on the quay today. "
    documents = [(f"{i}.md", "train", text * 3) for i in range(20)] + [("v.md", "validation", text)]
    (chosen,) = choose_examples(documents, tokenizer, 64)
    assert chosen.word not in {"which", "the"}


def test_unknown_word_has_no_positions(tokenizer: Any) -> None:
    assert ClozeExample("a.md", "The \u0416\u0416\u0416 stands.", 4, 7).encode(tokenizer)[1] == []


@pytest.mark.parametrize("name", ["ledger-guide", "our-ledger", "ledger.org", "ledger_id", "ledger's", "ledger"])
def test_parts_of_compounds_are_not_chosen(name: str, tokenizer: Any) -> None:
    documents = [
        (
            f"{i}.md",
            "validation" if i == 0 else "train",
            " ".join(f"The {word} belong to the other {name} of the cluster." for word in words),
        )
        for i, words in enumerate([("users", "values", "pages", "networks")] * 8)
    ]
    chosen = {example.word for example in choose_examples(documents, tokenizer, 64)}
    assert chosen
    assert ("ledger" in chosen) == (name == "ledger")


def test_probability_of_a_word_is_the_product_over_its_tokens(run: Path, tokenizer: Any) -> None:
    model = AutoModelForMaskedLM.from_pretrained(run / "model", dtype=torch.float32).train()
    with torch.no_grad():  # after a few steps, context matters little
        for parameter in model.base_model.layers.parameters():
            parameter.mul_(6)
    sentence = "The ledgers stand near the river and the town."
    example = ClozeExample("a.md", sentence, 4, 11)
    ids, positions = example.encode(tokenizer)
    assert len(positions) > 1
    state = torch.get_rng_state()
    prediction = predict(model, tokenizer, [example])[0]
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    model.eval()
    expected = 0.0
    for i, position in enumerate(positions):
        shown = torch.tensor([ids])
        shown[0, positions[i:]] = tokenizer.mask_token_id
        logits = model(input_ids=shown).logits[0, position].detach()
        expected += float(logits.log_softmax(-1)[ids[position]])
    assert prediction.probability == pytest.approx(torch.tensor(expected).exp().item(), rel=1e-3, abs=2e-9)
    probabilities = [probability for _, probability in prediction.top]
    assert len(probabilities) == 5
    assert probabilities == sorted(probabilities, reverse=True)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [390, 1280])
def test_page_fits_the_width_of_the_browser(width: int, run: Path, tmp_path: Path) -> None:
    html = re.sub(r"<meta http-equiv[^>]*>", "", (run / "report.html").read_text("utf-8"))
    quoted = html.replace("&", "&amp;").replace('"', "&quot;")
    frame = f'<iframe id=f style="width:{width}px;height:800px;border:0" srcdoc="{quoted}"></iframe>'
    measure = "const d=f.contentDocument.documentElement;document.title=d.scrollWidth+' '+d.scrollHeight"
    (tmp_path / "frame.html").write_text(
        f"<!doctype html><title></title>{frame}<script>onload=()=>{{{measure}}}</script>", "utf-8"
    )
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]
    flags += [
        "--no-first-run",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path / 'browser'}",
    ]
    done = subprocess.run(
        ["chromium", *flags, "--dump-dom", f"file://{tmp_path / 'frame.html'}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    measured = re.search(r"<title>(\d+) (\d+)</title>", done.stdout)
    assert measured is not None, done.stderr
    assert int(measured[1]) == width
    assert int(measured[2]) > 1500
