"""The report: what it shows of runs in every state, what it lets models guess, and that nothing gets into it or out."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from models import architecture, build
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

from mlm_dist import report
from mlm_dist.config import Config, parse_of_run
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.errors import ConfigError
from mlm_dist.evaluation.fill_mask import Guess, guess
from mlm_dist.pages.blanks import Blank, choose
from mlm_dist.pages.charts import Series, chart
from mlm_dist.pages.page import Comparison, Content, page
from mlm_dist.pages.record import read_record

EMPTY = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source"}
OPTIONAL_END = {"path", "circle"}  # self-closing in SVG


class Page(HTMLParser):
    """What stands in a page: its text, its tags with their attributes; balanced, or it raises."""

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
        if self._open and self._open[-1] != "style":
            self.text += f"{data} "


def config_of(run: Path) -> Config:
    return parse_of_run(["--output_dir", str(run)], prog="report.py")


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]


def write_lines(run: Path, found: list[dict[str, Any]]) -> None:
    run.mkdir(exist_ok=True)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in found), "utf-8")


def test_training_leaves_a_page_that_needs_nothing_else(run: Path) -> None:
    html = (run / "report.html").read_text("utf-8")
    found = Page(html)
    for title in ("Before and after", "Loss", "Learning rate", "Gradient norm", "Tokens per second", "Skipped updates"):
        assert title in found.text
    assert "finished after 12 updates" in found.text
    assert "dropped: under 200 characters 1" in " ".join(found.text.split())
    assert {"script", "link", "iframe", "object", "embed", "img"}.isdisjoint(tag for tag, _ in found.tags)
    for _, attributes in found.tags:
        assert not {"src", "href", "srcset", "data", "action"} & attributes.keys()
        assert not any(name.startswith("on") for name in attributes)
    assert "@import" not in html
    assert "url(" not in html
    assert [attributes["content"] for _, attributes in found.tags if "http-equiv" in attributes] == [
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    ]


def test_page_can_be_read_without_eyes(run: Path) -> None:
    found = Page((run / "report.html").read_text("utf-8"))
    tags = [tag for tag, _ in found.tags]
    assert tags.count("h1") == 1
    assert tags.count("caption") == tags.count("table") > 3
    charts = [attributes for tag, attributes in found.tags if tag == "svg"]
    assert len(charts) == 5
    assert all(attributes["role"] == "img" and "after update" in str(attributes["aria-label"]) for attributes in charts)
    assert ("html", {"lang": "en"}) in found.tags


def test_starting_model_guesses_what_seed_and_config_say(run: Path) -> None:
    """So a run that goes on without its report.json gets the same one again."""
    config = config_of(run)
    corpus = PreparedCorpus(Path(config.corpus.cache_dir) / lines(run)[0]["corpus"])
    model = build(config, architecture(config, corpus.tokenizer))
    kept = json.loads((run / "report.json").read_text("utf-8"))
    blanks = [Blank(**blank) for blank in kept["blanks"]]
    assert len(blanks) >= 5
    assert blanks == choose(corpus.documents(), corpus.tokenizer, 64)
    again = json.loads(json.dumps([asdict(found) for found in guess(model, corpus.tokenizer, blanks)]))
    for one, other in zip(kept["before"], again, strict=True):
        assert [text for text, _ in one["fills"]] == [text for text, _ in other["fills"]]
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-5)


def test_begin_keeps_what_a_run_that_goes_on_began_with(copy: Path) -> None:
    config = config_of(copy)
    corpus = PreparedCorpus(Path(config.corpus.cache_dir) / lines(copy)[0]["corpus"])
    model = build(config, architecture(config, corpus.tokenizer))
    kept = (copy / "report.json").read_text("utf-8")
    report.begin(copy, None, corpus)  # a model is not even looked at
    assert (copy / "report.json").read_text("utf-8") == kept
    (copy / "report.json").unlink()
    report.begin(copy, model, corpus)
    assert json.loads((copy / "report.json").read_text("utf-8"))["blanks"] == json.loads(kept)["blanks"]


def test_trained_model_guesses_what_its_pipeline_fills_in(run: Path) -> None:
    html = Page((run / "report.html").read_text("utf-8")).text
    fill = pipeline("fill-mask", model=str(run / "model"))
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    model = AutoModelForMaskedLM.from_pretrained(run / "model", dtype=torch.float32)
    kept = json.loads((run / "report.json").read_text("utf-8"))
    blanks = [Blank(**blank) for blank in kept["blanks"]]
    compared = 0
    for blank, found in zip(blanks, guess(model, tokenizer, blanks), strict=True):
        assert blank.word in html
        if len(blank.places(tokenizer)[1]) == 1:
            masked = blank.sentence[: blank.start] + tokenizer.mask_token + blank.sentence[blank.end :]
            theirs = fill(masked)
            assert [text for text, _ in found.fills] == [one["token_str"] for one in theirs]
            assert [chance for _, chance in found.fills] == pytest.approx([one["score"] for one in theirs], abs=1e-5)
            compared += 1
    assert compared >= 3


def test_run_that_is_still_going_shows_its_newest_checkpoint(copy: Path) -> None:
    write_lines(copy, [line for line in lines(copy) if line["kind"] != "end" and line.get("step", 0) <= 8])
    shutil.rmtree(copy / "model")
    shutil.rmtree(copy / "checkpoints" / "step-00000012")
    report.main(config_of(copy))
    text = " ".join(Page((copy / "report.html").read_text("utf-8")).text.split())
    assert "at update 8 of 12, still going or interrupted" in text
    assert "After update 6" in text


def test_job_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"output_dir: there is no run in .*no metrics.jsonl"):
        report.main(parse_of_run(["--output_dir", str(tmp_path)], prog="report.py"))


def test_what_is_missing_is_said_and_ends_no_run(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of(copy)
    (copy / "report.json").write_text("{", "utf-8")
    report.end(config)
    assert "WARNING: report.html: report.json cannot be read" in capsys.readouterr().out
    assert "report.json cannot be read" in (copy / "report.html").read_text("utf-8")
    (copy / "metrics.jsonl").unlink()
    report.end(config)
    assert "WARNING: the report was not written (output_dir: there is no run" in capsys.readouterr().out
    (copy / "report.json").unlink()
    report.begin(copy, None, PreparedCorpus(copy / "nowhere"))
    assert "WARNING: what the starting model fills in was not recorded (FileNotFoundError" in capsys.readouterr().out


START = {"kind": "start", "model": "bert", "updates": 20, "unigram_loss": 6.0, "resumed_from": 0, "version": "0"}


def train(step: int, loss: float | None, **more: Any) -> dict[str, Any]:
    line = {"step": step, "loss": loss, "learning_rate": 1e-3, "grad_norm": loss, "tokens_per_second": 10.0}
    return {"kind": "train", **line, "skipped_steps": 0, **more}


def held_out(step: int, loss: float | None) -> dict[str, Any]:
    return {"kind": "validation", "step": step, "loss": loss, "perplexity": loss, "accuracy": 0.5, "masked_tokens": 9}


BANDS = {"accuracy_rare": 0.125, "masked_tokens_rare": 8, "accuracy_domain": None, "masked_tokens_domain": 0}
SECOND = {"second_loss": 4.5, "second_perplexity": 90.0, "second_accuracy": 0.25, "second_masked_tokens": 7}
EARLY = {"kind": "end", "step": 9, "seconds": 3.0, "best_step": 3, "best_loss": 2.0, "stopped_early": True}
STATES = {
    "nothing": ([], "Nothing of this run was recorded yet"),
    "just begun": ([START], "at update 0 of 20"),
    "one point": ([START, held_out(0, 7.0)], "7 6 by word frequencies alone"),
    "no validation": ([START, train(10, 5.0), train(20, 4.0)], "Nothing was held out"),
    "not a number": ([START, held_out(0, None), train(1, None), train(2, 3.0), train(3, None)], "not finite"),
    "all the same": ([START, train(1, 0.0), train(2, 0.0)], "Gradient norm"),
    "far apart": ([START, train(1, 1e-6), train(2, 1e9)], "(logarithmic)"),
    "skipped": ([START, train(1, 2.0, skipped_steps=1), train(2, 2.0, skipped_steps=3)], "Skipped updates, all in all"),
    "a spike": ([START, train(1, 2.0), train(2, 90.0, spike=True)], "stood out after update 2"),
    "stopped": ([START, train(5, 2.0), {"kind": "end", "step": 5}], "stopped after update 5 of 20"),
    "bands": ([START, held_out(0, 3.0) | BANDS, held_out(9, 2.0) | BANDS], "never saw 12.5% 12.5% 8"),
    "second source": ([START, held_out(0, 3.0) | SECOND, held_out(9, 2.0) | SECOND], "9 2 2 50% 4.5 25%"),
    "stopped early": (
        [START, held_out(0, 7.0), held_out(3, 2.0), held_out(9, 5.0), EARLY],
        "finished early, after 9 of",
    ),
    "best is shown": ([START, held_out(0, 7.0), held_out(3, 2.0), held_out(9, 5.0), EARLY], "7 \u2192 2"),
    "resumed": ([START, train(5, 2.0), START | {"resumed_from": 5}, train(9, 1.0)], "taken up again after update 5"),
    "long": ([START, *(train(step, 1 / step) for step in range(1, 5000))], "training"),
}


@pytest.mark.parametrize("name", list(STATES))
def test_runs_in_every_state(name: str, tmp_path: Path) -> None:
    found, expected = STATES[name]
    write_lines(tmp_path, found)
    html = page(Content("run", read_record(tmp_path), None, None, "", []))
    assert expected in " ".join(Page(html).text.split())
    drawings = " ".join(re.findall(r'(?: d| cx| cy)="([^"]*)"', html))
    assert "nan" not in drawings
    assert "inf" not in drawings
    numbers = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", drawings)]
    assert all(-1 <= number <= 400 for number in numbers), "something is drawn outside its chart"
    assert len(html) < 60_000


def test_what_the_validate_job_found_is_shown(tmp_path: Path) -> None:
    write_lines(tmp_path, [START, held_out(0, 3.0), held_out(9, 2.0)])
    one = {"recall_at_1": 0.25, "recall_at_10": 0.5, "mrr": 0.375}
    asked = {"pairs": 20, "token_overlap": one, "start": one | {"mrr": 0.125}, "trained": one | {"mrr": 0.625}}
    probe = {"model": "m", "step": 9, "questions": {"title_to_body": asked}}
    sentences = {"pseudo_log_likelihood": -2.5, "pseudo_perplexity": 12.18, "sentences": 64, "sentence_tokens": 900}
    html = page(Content("run", read_record(tmp_path), None, None, "", [], {"model": "m"} | sentences, probe))
    text = " ".join(Page(html).text.split())
    assert "m -2.5 12.18 64 900" in text
    assert "common tokens alone 25% 50% 0.375 starting model 25% 50% 0.125 trained model 25% 50% 0.625" in text
    assert "among 20 held-out documents" in text
    assert "Chance finds 5% first" in text
    plain = page(Content("run", read_record(tmp_path), None, None, "", []))
    assert "Search without labels" not in plain
    assert "masked in turn" not in plain


def test_files_of_the_validate_job_are_read_or_named(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    probe = {"model": "m", "step": 9, "questions": {"half_to_half": {"pairs": 4}}}
    (copy / "probe.json").write_text(json.dumps(probe), "utf-8")
    (copy / "validation.json").write_text("{", "utf-8")
    report.main(config_of(copy))
    html = (copy / "report.html").read_text("utf-8")
    assert "among 4 held-out documents" in html
    assert "validation.json cannot be read" in capsys.readouterr().out


def test_later_lines_of_the_same_update_hold(tmp_path: Path) -> None:
    write_lines(tmp_path, [START, train(5, 9.0), held_out(5, 8.0), START | {"resumed_from": 4}, train(5, 1.0)])
    record = read_record(tmp_path)
    assert record.train[5]["loss"] == 1.0
    assert record.validation[5]["loss"] == 8.0
    assert record.resumed == [4]
    assert record.end is None


def test_not_a_number_breaks_a_line_and_lone_points_are_dots() -> None:
    html = chart("Loss", [Series("loss", [(1, 1.0), (2, 2.0), (3, None), (4, 3.0), (5, None)])], str)
    path = re.findall(r'class=line d="([^"]*)"', html)[0]
    assert path.count("M") == 2
    assert path.count("L") == 1
    assert html.count("<circle") == 1


def test_text_of_documents_cannot_become_markup(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>\"'&</style><script>"
    write_lines(tmp_path, [START | {"model": evil, evil: evil}, held_out(0, 1.0)])
    blank = Blank(evil, f"{evil} word {evil}", len(evil) + 1, len(evil) + 5)
    comparison = Comparison([blank], [Guess([(evil, 0.5)], 0.1, None)], [Guess([(evil, 0.5)], 0.1, 1)], 3)
    corpus = {
        "source": {"kind": evil, "location": evil, "commit": evil},
        "documents": {"found": 1, "dropped": {evil: 1}, "train": 0, "validation": 0},
        "tokens": {"kept": 0, "dropped": 0, "padded": 0},
        "rows": {"train": 0, "validation": 0},
        "notes": {evil: 1},
        "config": {"rows": {"mode": evil, "max_length": 8}},
    }
    probe = {"model": evil, "questions": {evil: {"pairs": 2}}}
    content = Content(evil, read_record(tmp_path), corpus, comparison, evil, [evil], None, probe)
    html = page(content)
    found = Page(html)
    assert found.text.count(evil) > 10
    assert {"img", "script"}.isdisjoint(tag for tag, _ in found.tags)
    assert html.count("</style>") == 1


def sentences(split: str) -> Iterator[tuple[str, str, str]]:
    """Forty documents; "the" is everywhere, "kestrel" and "enclave" in a few of them, over and over."""
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
    chosen = choose(sentences("train"), tokenizer, 64)
    assert chosen == choose(sentences("train"), tokenizer, 64)
    assert chosen[0].word in ("kestrel", "enclave", "guards")
    assert {blank.document for blank in chosen} <= {"0.md", "1.md"}
    assert len({blank.sentence for blank in chosen}) == len(chosen)
    assert choose(sentences("validation"), tokenizer, 64) == [], "words that no training document holds"
    assert choose(sentences("train"), tokenizer, 8) == [], "sentences longer than a row"


def test_words_that_the_tokenizer_does_not_know_are_left_out(tokenizer: Any) -> None:
    assert Blank("a.md", "The \u0416\u0416\u0416 stands.", 4, 7).places(tokenizer)[1] == []


@pytest.mark.parametrize("name", ["ledger-guide", "our-ledger", "ledger.org", "ledger_id", "ledger's", "ledger"])
def test_words_are_not_cut_out_of_others(name: str, tokenizer: Any) -> None:
    documents = [
        (
            f"{i}.md",
            "validation" if i == 0 else "train",
            " ".join(f"The {word} belong to the other {name} of the cluster." for word in words),
        )
        for i, words in enumerate([("users", "values", "pages", "networks")] * 8)
    ]
    chosen = {blank.word for blank in choose(documents, tokenizer, 64)}
    assert chosen
    assert ("ledger" in chosen) == (name == "ledger")


def test_chance_of_a_word_of_several_tokens_is_the_product_of_theirs(run: Path, tokenizer: Any) -> None:
    model = AutoModelForMaskedLM.from_pretrained(run / "model", dtype=torch.float32).train()
    with torch.no_grad():  # after a few updates, context means little
        for parameter in model.base_model.encoder.parameters():
            parameter.mul_(6)
    sentence = "The ledgers stand near the river and the town."
    blank = Blank("a.md", sentence, 4, 11)
    ids, places = blank.places(tokenizer)
    assert len(places) > 1
    state = torch.get_rng_state()
    found = guess(model, tokenizer, [blank])[0]
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    model.eval()
    expected = 0.0
    for i, place in enumerate(places):
        shown = torch.tensor([ids])
        shown[0, places[i:]] = tokenizer.mask_token_id
        expected += float(model(input_ids=shown).logits[0, place].detach().log_softmax(-1)[ids[place]])
    assert found.probability == pytest.approx(torch.tensor(expected).exp().item(), rel=1e-3, abs=2e-9)
    assert len(found.fills) == 5
    assert [chance for _, chance in found.fills] == sorted((chance for _, chance in found.fills), reverse=True)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_page_does_not_scroll_sideways_in_a_browser(width: int, run: Path, tmp_path: Path) -> None:
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
