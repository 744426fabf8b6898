"""Search in the documents of a run: passages, the index on the disk, the command and its page."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from pathlib import Path

import launching
import numpy as np
import pytest
from making import made_up_prose

from mlm_dist import cli
from mlm_dist.commands import search as command
from mlm_dist.corpus.outline import Heading, Outline, Span
from mlm_dist.corpus.passages import OutlinedDocument, num_words
from mlm_dist.errors import ConfigError
from mlm_dist.search import server
from mlm_dist.search.of_run import RunSearch
from mlm_dist.search.passages import MAX_WORDS, passages_of, windows


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, one_core: None) -> Path:
    """The directory of a short run on documents with headings."""
    base = tmp_path_factory.mktemp("searched")
    (base / "docs").mkdir()
    for i in range(20):
        parts = [f"# Guide {i} of things\n"]
        parts += [f"## Part {'abc'[k]} <b>of</b> {i}\n\n{made_up_prose(10 * i + k, 8)}\n" for k in range(3)]
        (base / "docs" / f"{i:02d}.md").write_text("\n".join(parts), "utf-8")
    flags = (f"--corpus.source={base / 'docs'}", f"--corpus.cache_dir={base / 'cache'}", "--batch.global_size=8")
    launching.here(
        *("train", "--objective=contrastive", *launching.SHORT, *flags, "--optim.duration=4 steps"),
        f"--output_dir={base / 'run'}",
    )
    return base / "run"


# --- passages ---


def test_passages_have_all_text_and_the_headings_above() -> None:
    text = "The title\n\nBefore.\n\nOne\n\nFirst text.\n\nTwo\n\nSecond text.\n\nThree\n\nThird text."
    headings = tuple(
        Heading(text.index(name), text.index(name) + len(name), level)
        for name, level in (("One", 2), ("Two", 3), ("Three", 2))
    )
    found = list(passages_of(OutlinedDocument("a", text, Outline(Span(0, 9), headings))))
    assert [(one.heading, one.text) for one in found] == [
        ("The title", "Before."),
        ("The title > One", "First text."),
        ("The title > One > Two", "Second text."),
        ("The title > Three", "Third text."),
    ]
    assert found[1].content == "The title > One\nFirst text."
    (plain,) = passages_of(OutlinedDocument("a", "Only text.", Outline()))
    assert (plain.heading, plain.content) == ("", "Only text.")


def test_windows_lose_nothing() -> None:
    text = f"{made_up_prose(1, 60)} {'x' * 40 * MAX_WORDS} 一二三 end"
    parts = list(windows(text, 50))
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert len(parts) > 5 and all(1 <= num_words(part) <= 50 for part in parts)
    assert list(windows(" \n ", 50)) == []


# --- the index ---


def test_search_is_that_of_all_vectors(searched: Path) -> None:
    search = RunSearch.of(searched)
    passages = list(search.index.passages())
    assert len(passages) == len(search.index) == 60 and len({one.document for one in passages}) == 20
    query = search.encoder.encode(["rotate the keys of a vault"])[0]
    scores = search.encoder.encode([one.content for one in passages]) @ query
    hits = search.search("rotate the keys of a vault", 7)
    assert [hit.score for hit in hits] == pytest.approx(np.sort(scores)[::-1][:7].tolist(), abs=1e-5)
    assert hits[0].passage == passages[int(scores.argmax())]
    assert len(search.search("keys", 1000)) == 60
    # BM25 finds the words of a heading.
    assert search.search_words("guide 7", 3)[0].passage.document.startswith("07")


def test_index_is_built_once_and_again_when_it_must(searched: Path, tmp_path: Path) -> None:
    folder = RunSearch.of(searched).index.folder
    built = folder.stat().st_ino
    assert RunSearch.of(searched).index.folder.stat().st_ino == built
    vectors = folder / "vectors.npy"
    content = vectors.read_bytes()
    vectors.write_bytes(content[:-4] + b"\0\0\0\0")  # torn
    assert RunSearch.of(searched).index.folder.stat().st_ino != built
    assert vectors.read_bytes() == content
    card = searched / "model" / "config.json"
    card.write_text(card.read_text("utf-8") + "\n", "utf-8")
    before = folder.stat().st_ino
    assert RunSearch.of(searched).index.folder.stat().st_ino != before, "the model has changed"
    assert len(RunSearch.of(searched, ("validation",)).index) < 60
    assert not list(folder.parent.glob(".train-validation-*")), "nothing half-written is left"


# --- the command ---


def test_command_prints_passages(searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.main([str(searched), "rotate the keys", "--top=2", "--json"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert len(lines) == 2 and set(lines[0]) == {"score", "document", "heading", "text"}
    assert lines[0]["score"] >= lines[1]["score"]
    command.main([str(searched), "rotate the keys", "--top=1"])
    assert lines[0]["document"] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["RUN"], "the query is empty"),
        (["RUN", "keys", "--top=0"], "--top: must be from 1"),
        (["RUN", "keys", "--port=1"], "--port: has no effect"),
        (["RUN", "keys", "--serve"], "give no query"),
        (["nowhere", "keys"], "nowhere does not exist"),
        (["RUN", "keys", "--splt=all"], "search: unrecognized arguments"),
    ],
)
def test_wrong_words_are_refused(words: list[str], message: str, searched: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        command.main([str(searched) if word == "RUN" else word for word in words])


def test_run_without_a_model_or_a_corpus_is_refused(searched: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(searched.joinpath("config.yaml").read_text("utf-8"), "utf-8")
    with pytest.raises(ConfigError, match="has no exported model"):
        command.run(tmp_path, "keys")
    (tmp_path / "model").symlink_to(searched / "model")
    (tmp_path / "metrics.jsonl").write_text('{"kind": "start", "corpus": "0123"}\n', "utf-8")
    with pytest.raises(ConfigError, match="corpus 0123 of the run is not in"):
        command.run(tmp_path, "keys")


def test_names_of_other_tools_are_explained() -> None:
    assert "write mlm-dist search" in cli._unknown_job("query")


# --- the page ---


def test_page_escapes_and_answers_this_machine_only(searched: Path) -> None:
    search = RunSearch.of(searched)
    text = server.page(search, "<i>run</i>", '<script>alert("x")</script> guide 7', 3)
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text and "<i>run" not in text
    assert "By meaning" in text and "By words (BM25)" in text and text.count('class="hit"') == 6
    assert "<b>of</b>" not in text
    assert "default-src &#39;none&#39;" in text and "http" not in text.split("</style>")[1].replace("http-equiv", "")
    with server.serve(search, "run", 3) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        try:
            address = f"http://127.0.0.1:{served.server_port}"
            with urllib.request.urlopen(f"{address}/?q=guide+7") as answer:
                assert "By meaning" in answer.read().decode() and answer.headers["X-Frame-Options"] == "DENY"
            foreign = urllib.request.Request(address, headers={"Host": "evil.example"})
            for request, status in ((foreign, 403), (f"{address}/etc/passwd", 404)):
                with pytest.raises(urllib.error.HTTPError) as refused:
                    urllib.request.urlopen(request)
                with refused.value as answer:  # it holds the socket
                    assert answer.code == status
        finally:
            served.shutdown()
            thread.join()
