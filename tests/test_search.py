"""The search command: passages, models, the index on disk, its page, and what it says of bad input."""

from __future__ import annotations

import http.client
import importlib.util
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import launching
import numpy as np
import pytest
import torch
import yaml
from launching import ROOT
from making import made_up_prose
from safetensors.torch import load_file, save_file
from test_report import Page, assert_safe

from mlm_dist import cli
from mlm_dist.commands import completion
from mlm_dist.commands import search as command
from mlm_dist.corpus import known_hashes
from mlm_dist.corpus.outline import Heading, Outline, Span
from mlm_dist.corpus.passages import OutlinedDocument, num_words
from mlm_dist.errors import ConfigError, UserError
from mlm_dist.files import lock
from mlm_dist.search import Hit, RunSearch, nearest, of_run, open_search
from mlm_dist.search.index import Contents, SearchIndex
from mlm_dist.search.passages import Passage, passages_of
from mlm_dist.search.sentence_model import trained_model
from mlm_dist.search.server import SearchServer
from mlm_dist.search.text_parts import text_parts

QUERY = "rotate the keys of a vault"


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, one_core: None) -> Path:
    """The directory of a short run on documents with headings, with an index; it is not changed."""
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
    open_search(base / "run")
    return base / "run"


@pytest.fixture
def indexed(searched: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(searched, tmp_path / "indexed"))


def change_json(path: Path, **values: Any) -> None:
    before = json.loads(path.read_text("utf-8")) if path.exists() else {}
    path.write_text(json.dumps(before | values), "utf-8")


def change_config(run: Path, section: str, **values: Any) -> dict[str, Any]:
    """Change a section of a run's config, and return all of it."""
    config: dict[str, Any] = yaml.safe_load((run / "config.yaml").read_text("utf-8"))
    config[section] |= values
    (run / "config.yaml").write_text(yaml.safe_dump(config), "utf-8")
    return config


# --- passages ---


@pytest.mark.parametrize("max_words", [1, 7, 50])
@pytest.mark.parametrize(
    "text",
    [
        *("", " \n", "one", made_up_prose(3, 30), "a" * 1000),
        f"{'b ' * 60}\n\n{'字' * 700}。{'c' * 400} d",
        "\n\n x\n\n y z",
    ],
)
def test_parts_lose_nothing_and_are_bounded(text: str, max_words: int) -> None:
    found = list(text_parts(text, max_words))
    assert "".join("".join(found).split()) == "".join(text.split())
    assert all(0 < num_words(one) <= max_words for one in found)
    assert all(one in text and one == one.strip() for one in found)


def test_parts_end_between_paragraphs_or_sentences() -> None:
    assert list(text_parts("a b c. d e\n\nf g h", 7)) == ["a b c. d e", "f g h"]
    assert list(text_parts("a b c d. e f g h", 7)) == ["a b c d.", "e f g h"]
    assert list(text_parts("a. b c d e f g h", 7)) == ["a. b c d e f g", "h"], "not in the first half"


def test_passages_have_all_text_and_the_headings_above() -> None:
    text = "A badge.\n\nThe title\n\nBefore.\n\nOne\n\nFirst text.\n\nTwo\n\nSecond text.\n\nThree\n\nThird text."
    headings = tuple(
        Heading(text.index(name), text.index(name) + len(name), level)
        for name, level in (("The title", 1), ("One", 2), ("Two", 3), ("Three", 2))
    )
    found = list(passages_of(OutlinedDocument("a", text, Outline(Span(10, 19), headings)), 50))
    assert [(one.heading, one.text) for one in found] == [
        ("The title", "A badge."),
        ("The title", "Before."),
        ("The title \u203a One", "First text."),
        ("The title \u203a One \u203a Two", "Second text."),
        ("The title \u203a Three", "Third text."),
    ]
    assert found[2].content == "The title\nOne\nFirst text."
    (plain,) = passages_of(OutlinedDocument("a", "Only text.", Outline()), 50)
    assert (plain.heading, plain.content) == ("", "Only text.")


# --- nearest vectors ---


@pytest.mark.parametrize("top", [1, 5, 64, 1000])
def test_exact_search_is_brute_force_with_the_first_of_equal_scores(top: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "BLOCK", 37)
    draw = np.random.default_rng(top)
    vectors = draw.integers(-2, 3, (300, 4)).astype(np.float32)  # many are equal
    query = draw.integers(-2, 3, 4).astype(np.float32)
    scores = vectors @ query
    expected = sorted(range(300), key=lambda i: (-scores[i], i))[:top]
    found = nearest.exact(vectors, query, top)
    assert found.indices.tolist() == expected
    assert found.scores.tolist() == scores[expected].tolist()


def test_graph_finds_what_comparing_all_finds(indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = open_search(indexed).hits(QUERY, top=10)
    shutil.rmtree(indexed / "search")
    monkeypatch.setattr(nearest, "EXACT_LIMIT", 10)
    found = open_search(indexed).hits(QUERY, top=10)
    assert (indexed / "search" / "trained-all" / "vectors.usearch").is_file()
    assert len(set(exact) & set(found)) >= 9
    assert len(open_search(indexed).hits(QUERY)) == 5


# --- the index ---


def test_hits_are_the_passages_whose_vectors_are_nearest(searched: Path, tmp_path: Path) -> None:
    search, model = open_search(searched, bm25=True), trained_model(searched / "model", tmp_path)
    hits = search.hits(QUERY, top=1000)
    assert len(hits) == len(search) == 240 and len({one.document for one in hits}) == 20
    vectors = model.of_passages([Passage(*one[1:]).content for one in hits])
    np.testing.assert_allclose([one.score for one in hits], vectors @ model.of_query(QUERY), atol=1e-5)
    assert [one.score for one in hits] == sorted((one.score for one in hits), reverse=True)
    assert search.hits(QUERY, top=3) == hits[:3]
    assert search.hits("guide 7", model="bm25")[0].document.startswith("07"), "the words of a heading"
    assert search.hits("nonexistentword", model="bm25") == []


def test_second_start_reads_nothing_again(indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = indexed / "search" / "trained-all"
    monkeypatch.setattr(known_hashes, "RECENT", 0)  # the copy was made a moment ago
    hits, inode = open_search(indexed).hits(QUERY), folder.stat().st_ino
    read: list[Path] = []
    monkeypatch.setattr(known_hashes, "sha256_of", read.append)
    assert open_search(indexed).hits(QUERY) == hits
    assert read == []
    assert folder.stat().st_ino == inode


def test_index_is_built_again_for_another_model(indexed: Path) -> None:
    before = open_search(indexed).hits(QUERY, 1000)
    weights = load_file(indexed / "model" / "model.safetensors")
    name = next(name for name in weights if "embedding" in name and weights[name].dim() == 2)
    weights[name] = weights[name] + torch.randn_like(weights[name])
    save_file(weights, indexed / "model" / "model.safetensors", {"format": "pt"})
    with launching.logged() as log:
        after = open_search(indexed).hits(QUERY, 1000)
    assert "trained-all again" in log.getvalue()
    assert {one.text: one.score for one in after} != {one.text: one.score for one in before}


def test_each_split_has_an_index_of_its_documents(searched: Path) -> None:
    sizes = {split: len(open_search(searched, split)) for split in ("train", "validation", "all")}
    assert 0 < sizes["validation"] < sizes["train"]
    assert sizes["all"] == sizes["train"] + sizes["validation"]
    hits = open_search(searched, "validation").hits(QUERY, 1000)
    rest = open_search(searched, "train").hits(QUERY, 1000)
    assert {one.document for one in hits}.isdisjoint(one.document for one in rest)


def encode(texts: list[str]) -> np.ndarray:
    """One-hot vectors of the last letter, where it does not matter what a model finds."""
    return np.eye(26, dtype=np.float32)[[ord(text[-1]) - ord("a") for text in texts]]


def passages(count: int) -> list[Passage]:
    return [Passage(f"{i}.md", "", f"text {'abcdefghij'[i % 10]}") for i in range(count)]


def opened(folder: Path, model: str, found: Any) -> SearchIndex:
    return SearchIndex.of(folder / "trained", Contents({"model": model}, found, encode))


def found_in(index: SearchIndex, letter: str, top: int) -> list[int]:
    return [int(i) for i in index.nearest(encode([letter])[0], top).indices]


@pytest.mark.parametrize("how", ["shorter", "other bytes", "another file", "no record", "half a record"])
def test_torn_index_is_not_used(how: str, tmp_path: Path) -> None:
    expected, folder = found_in(opened(tmp_path, "one", passages(7)), "c", 7), tmp_path / "trained"
    vectors = folder / "vectors.npy"
    match how:
        case "shorter":
            vectors.write_bytes(vectors.read_bytes()[:-4])
        case "other bytes":
            vectors.write_bytes(vectors.read_bytes()[:-4] + b"\0\0\0@")
        case "another file":
            shutil.copy(ROOT / "README.md", folder / "passages.parquet")
        case "no record":
            (folder / "index.json").unlink()
        case "half a record":
            (folder / "index.json").write_text('{"format": 1, "made_of"', "utf-8")
    (tmp_path / ".trained-killed").mkdir()
    one = opened(tmp_path, "one", passages(7))
    assert found_in(one, "c", 7) == expected
    assert one.read(np.arange(7)) == passages(7)
    assert {path.name for path in tmp_path.iterdir()} <= {"trained", "hashes", ".trained.lock"}


def test_interrupted_build_leaves_the_index_as_it_was(tmp_path: Path) -> None:
    def interrupted() -> Iterator[Passage]:
        yield from passages(600)
        raise KeyboardInterrupt

    opened(tmp_path, "one", passages(5))
    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path, "two", interrupted())
    assert {path.name for path in tmp_path.iterdir()} <= {"trained", "hashes", ".trained.lock"}
    assert len(opened(tmp_path, "one", [])) == 5


def test_second_process_waits_for_the_first(tmp_path: Path) -> None:
    held = lock(tmp_path / ".trained.lock", wait=False)
    found: list[SearchIndex] = []
    with launching.logged() as log:
        thread = threading.Thread(target=lambda: found.append(opened(tmp_path, "one", passages(5))))
        thread.start()
        thread.join(0.5)
        assert thread.is_alive()
        assert "waiting" in log.getvalue()
        held.release()
        thread.join(20)
    assert len(found[0]) == 5


def test_passages_are_read_by_their_number(tmp_path: Path) -> None:
    one, numbers = opened(tmp_path, "one", iter(passages(600))), [599, 0, 255, 256]
    assert one.read(np.array(numbers)) == [passages(600)[i] for i in numbers]
    assert found_in(one, "d", 3) == [3, 13, 23]


def test_package_for_a_graph_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "EXACT_LIMIT", 10)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"11 passages, and over 10 need the package usearch; .*mlm_dist\[search\]"):
        opened(tmp_path, "one", passages(11))


# --- models ---


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vectors_are_those_of_sentence_transformers(pooling: str, indexed: Path) -> None:
    from sentence_transformers import SentenceTransformer

    model = indexed / "model"
    modes = json.loads((model / "1_Pooling" / "config.json").read_text("utf-8"))
    change_json(
        model / "1_Pooling" / "config.json",
        **{name: name.startswith(f"pooling_mode_{pooling}_token") for name in modes if name.startswith("pooling_mode")},
    )
    prompts = {"query": "query: ", "document": "passage: "}
    change_json(model / "config_sentence_transformers.json", prompts=prompts)
    theirs, texts = SentenceTransformer(str(model), device="cpu"), [QUERY, "x", made_up_prose(1, 40)]
    ours = trained_model(model, indexed)
    np.testing.assert_allclose(ours.of_query(QUERY), theirs.encode_query([QUERY])[0], atol=1e-5)
    np.testing.assert_allclose(ours.of_passages(texts), theirs.encode_document(texts), atol=1e-5)


@pytest.mark.parametrize("other", ["max pooling", "Dense modules", "prompts that are not pooled"])
def test_what_search_does_not_compute_is_refused(other: str, indexed: Path) -> None:
    model = indexed / "model"
    pooling = json.loads((model / "1_Pooling" / "config.json").read_text("utf-8"))
    if other == "max pooling":
        modes = {name: "max" in name for name in pooling if name.startswith("pooling_mode")}
        change_json(model / "1_Pooling" / "config.json", **modes)
    elif other == "Dense modules":
        modules = json.loads((model / "modules.json").read_text("utf-8"))
        modules.append({"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
        (model / "modules.json").write_text(json.dumps(modules), "utf-8")
        (model / "2_Dense").mkdir()
        (model / "2_Dense" / "config.json").write_text("{}", "utf-8")
        (model / "2_Dense" / "model.safetensors").touch()
    else:
        change_json(model / "1_Pooling" / "config.json", include_prompt=False)
        change_json(model / "config_sentence_transformers.json", prompts={"query": "query: "})
    with pytest.raises(UserError, match=f"this model has {other}; search with sentence-transformers"):
        open_search(indexed)


@pytest.mark.parametrize("how", ["truncated", "modules", "a pickle"])
def test_damaged_model_is_one_line(how: str, indexed: Path) -> None:
    path = indexed / "model" / "model.safetensors"
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    elif how == "modules":
        (indexed / "model" / "modules.json").write_text("[{}]", "utf-8")
    else:
        torch.save(load_file(path), path.with_name("pytorch_model.bin"))
        path.unlink()
    with pytest.raises(UserError, match=r"model: cannot be loaded .*; export it again with mlm-dist export"):
        open_search(indexed)


def test_model_before_training_is_compared(indexed: Path) -> None:
    search = open_search(indexed, start=True, bm25=True)
    assert search.models == ["trained", "start", "bm25"]
    assert search.hits(QUERY) != search.hits(QUERY, model="start")
    # A run that begins with the exported model, which reads as the trained one does.
    folder = Path(shutil.copytree(indexed / "model", indexed / "begun"))
    change_config(indexed, "model", name_or_path=str(folder), overrides={})
    change_config(indexed, "tokenizer", train_vocab_size=None)
    search = open_search(indexed, start=True)
    assert search.hits(QUERY) == search.hits(QUERY, model="start")


def test_model_before_training_that_is_gone(indexed: Path) -> None:
    change_config(indexed, "model", name_or_path=str(indexed / "gone"), overrides={})
    with pytest.raises(UserError, match=r"model.name_or_path: folder .*gone does not exist"):
        open_search(indexed, start=True)
    folder = Path(shutil.copytree(indexed / "model", indexed / "gone"))
    (folder / "modules.json").write_text("[{}]", "utf-8")
    change_config(indexed, "tokenizer", train_vocab_size=None)
    with launching.logged() as log:
        assert open_search(indexed, start=None).models == ["trained"]
    assert "the model before training is not shown" in log.getvalue()
    assert "gone: cannot be loaded ('type'); restore it" in log.getvalue()


def test_bm25_has_a_limit(searched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_run, "BM25_LIMIT", 239)
    with launching.logged() as log:
        assert open_search(searched, bm25=True).models == ["trained"]
    assert "BM25 is not shown: 240 passages" in log.getvalue()


# --- the corpus ---


@pytest.mark.parametrize("missing", ["model", "corpus", "validation documents"])
def test_what_is_missing_is_named_with_the_remedy(missing: str, indexed: Path, tmp_path: Path) -> None:
    expected = {
        "model": "has no exported model; .* mlm-dist export",
        "corpus": r"the corpus of .* is not in .*; prepare it again with mlm-dist prepare --config \S*yaml",
        "validation documents": "--split: corpus .* has no validation documents",
    }
    digest = launching.metrics(indexed, "start")[0]["corpus"]
    if missing == "model":
        shutil.rmtree(indexed / "model")
    else:
        cache = Path(change_config(indexed, "corpus")["corpus"]["cache_dir"])
        change_config(indexed, "corpus", cache_dir=str(tmp_path / "empty"))
    if missing == "validation documents":
        shutil.copytree(cache / digest, tmp_path / "empty" / digest)
        manifest = tmp_path / "empty" / digest / "manifest.json"
        change_json(manifest, documents=json.loads(manifest.read_text("utf-8"))["documents"] | {"validation": 0})
    with pytest.raises(UserError, match=expected[missing]):
        open_search(indexed, "validation")


def test_corpus_of_another_version_is_prepared_again(indexed: Path, tmp_path: Path) -> None:
    cache, digest = tmp_path / "cache", launching.metrics(indexed, "start")[0]["corpus"]
    shutil.copytree(Path(change_config(indexed, "corpus")["corpus"]["cache_dir"]), cache)
    change_config(indexed, "corpus", cache_dir=str(cache))
    change_json(cache / digest / "manifest.json", format=9)
    np.save(cache / digest / "selection.npy", np.zeros(20, [("side", "u1")]))
    with pytest.raises(UserError, match="was prepared by another version, or is damaged; prepare it again with"):
        open_search(indexed)
    launching.here("prepare", f"--config={indexed / 'config.yaml'}")
    assert len(open_search(indexed)) == 240


def test_damaged_documents_are_one_line(indexed: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(Path(change_config(indexed, "corpus")["corpus"]["cache_dir"]), cache)
    change_config(indexed, "corpus", cache_dir=str(cache))
    shutil.rmtree(indexed / "search")
    digest = launching.metrics(indexed, "start")[0]["corpus"]
    path = next((cache / digest).glob("documents/*.parquet"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        UserError, match=r"corpus.cache_dir: .* is damaged .*; delete that folder, and prepare it again"
    ):
        open_search(indexed)
    assert not [path for path in (indexed / "search").iterdir() if path.is_dir() and path.name != "hashes"]


def test_corpus_that_its_config_describes_now_is_searched(indexed: Path) -> None:
    path = indexed / "metrics.jsonl"
    digest = launching.metrics(indexed, "start")[0]["corpus"]
    path.write_text(path.read_text("utf-8").replace(digest, "0" * 16), "utf-8")
    with launching.logged() as log:
        assert len(open_search(indexed)) == 240
    assert f"{digest}, as the corpus of the run is not in the cache" in log.getvalue()


def test_documents_may_stay_in_a_store(indexed: Path, tmp_path: Path) -> None:
    expected = open_search(indexed).hits(QUERY)
    change_config(indexed, "corpus", store=(tmp_path / "bucket").as_uri())
    launching.here("prepare", f"--config={indexed / 'config.yaml'}")  # uploads
    change_config(indexed, "corpus", cache_dir=str(tmp_path / "cache"), rows_from="store")
    launching.here("prepare", f"--config={indexed / 'config.yaml'}")
    shutil.rmtree(indexed / "search")
    assert open_search(indexed).hits(QUERY) == expected
    assert list((tmp_path / "bucket").rglob("documents/*.parquet"))
    assert not list((tmp_path / "cache").rglob("documents/*.parquet"))


# --- the command ---


def test_command_prints_hits_or_objects(searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search = open_search(searched, start=True, bm25=True)
    hits = search.hits(QUERY, top=2)
    command.main([str(searched), QUERY, "--top", "2"])
    text = capsys.readouterr().out
    for hit in hits:
        assert f"{hit.score:.3f}  {hit.document}" in text
        assert " ".join(hit.text.split()[:5]) in text
    assert max(map(len, text.splitlines())) <= 80
    assert "Trained model" not in text
    command.main([str(searched), QUERY, "--top=2", "--compare=start"])
    text = capsys.readouterr().out
    assert text.index("Trained model") < text.index("Before training") < text.index("BM25")
    command.main([str(searched), QUERY, "--top=2", "--compare=start", "--json"])
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert objects == [
        {"model": model, "rank": i, **hit._asdict()}
        for model in ("trained", "start", "bm25")
        for i, hit in enumerate(search.hits(QUERY, 2, model), 1)
    ]


def test_log_is_not_among_the_objects(indexed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (indexed / "search" / "trained-all" / "index.json").unlink()
    command.main([str(indexed), QUERY, "--json"])
    out, err = capsys.readouterr()
    assert [json.loads(line)["rank"] for line in out.splitlines()] == [1, 2, 3, 4, 5]
    assert "trained-all again" in err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["RUN", " "], "QUERY is empty"),
        (["RUN"], "QUERY is missing"),
        (["RUN", "x", "--top", "0"], "--top: must be from 1"),
        (["RUN", "x", "--port", "0"], "--port: .* add it"),
        (["RUN", "x", "--json", "--serve"], "--json: .*remove one"),
        (["RUN", "x", "--split", "test"], "--split: invalid choice"),
        (["RUN", "x", "--tops", "1"], "unrecognized arguments: --tops"),
        ([], "required: RUN"),
        (["RUN/model", "x"], "did you mean"),
        (["nowhere", "x"], "nowhere does not exist"),
    ],
)
def test_wrong_flags_are_one_line(words: list[str], expected: str, searched: Path) -> None:
    with pytest.raises(ConfigError, match=expected):
        command.main([word.replace("RUN", str(searched)) for word in words])


def test_completion_knows_the_flags() -> None:
    given = {flag for one in command.parser()._actions for flag in one.option_strings} - {"-h"}
    parsed = completion.parser(cli.COMMANDS).parse_args(["search", "run", "query", "--serve", "--port", "1"])
    assert {f"--{name}" for name in vars(parsed) if name.islower()} >= given


def test_names_of_other_tools_are_explained() -> None:
    assert "write mlm-dist search" in cli._unknown_job("query")


# --- the page ---


class Answer:
    """An answer of the server."""

    def __init__(self, server: SearchServer, path: str, method: str = "GET", host: str | None = None) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
        try:
            connection.request(method, path, headers={} if host is None else {"Host": host})
            answer = connection.getresponse()
            self.status, self.headers, self.text = answer.status, answer.headers, answer.read().decode()
        finally:
            connection.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SearchServer]:
    """A server of passages with markup in them."""
    hostile = [Passage("<b>.md", "<i>head", f"<script>alert({i})</script> & \"'{'x y ' * 60} text a") for i in range(3)]
    one = opened(tmp_path, "one", hostile)
    search = RunSearch(one, {"trained": lambda query, top: one.nearest(encode([query])[0], top)})
    with SearchServer(search, "<u>run", command.TITLES) as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def test_page_escapes_queries_and_documents(server: SearchServer) -> None:
    query = '"><script>alert(1)</script>a'
    answer = Answer(server, f"/?q={quote(query)}")
    assert answer.status == 200
    assert_safe(answer.text)
    tags = Page(answer.text).tags
    assert [name for name, _ in tags if name in ("b", "i", "u")] == []
    assert len([name for name, _ in tags if name == "script"]) == 1, "the one of all pages"
    assert [one["value"] for name, one in tags if name == "input"] == [query]
    assert "&lt;script&gt;alert(2)" in answer.text
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src")
    assert "form-action 'self'" in policy and "frame-ancestors 'none'" in policy
    empty = Answer(server, "/")
    assert '<ol class="hits">' in answer.text
    assert '<ol class="hits">' not in empty.text


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example:PORT", "[::1]:1", ""])
def test_foreign_host_is_refused(host: str, server: SearchServer) -> None:
    answer = Answer(server, "/?q=a", host=host.replace("PORT", str(server.server_port)))
    assert (answer.status, answer.text) == (403, "403 Forbidden\n")
    assert Answer(server, "/?q=a", host="localhost:9000").status == 200, "through a tunnel"


def test_server_answers_get_of_its_page_only(server: SearchServer) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "HEAD"):
        assert Answer(server, "/?q=a", method).status == 405
    for path in ("/favicon.ico", "/../../etc/passwd", "//other.example/"):
        assert Answer(server, path).status == 404
    assert server.server_address[0] == "127.0.0.1"


def test_fault_is_logged_and_says_nothing_to_the_browser(server: SearchServer) -> None:
    with launching.logged() as log:
        answer = Answer(server, "/?q=A", "GET")  # this model has no vector for it
    assert (answer.status, answer.text) == (500, "500 Internal Server Error\n")
    assert "IndexError" in log.getvalue()


def test_port_in_use_is_one_line(server: SearchServer, searched: Path) -> None:
    words = [str(searched), "--serve", "--port", str(server.server_port)]
    with pytest.raises(ConfigError, match=f"--port: cannot use {server.server_port} .*choose another"):
        command.main(words)


def test_serve_shows_all_models_and_ends_with_ctrl_c(searched: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "mlm_dist.program", "search", str(searched), "--serve"],
        cwd=ROOT,
        env=launching.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=launching.heed_ctrl_c,  # noqa: PLW1509
    )
    try:
        assert process.stdout is not None
        line = next(line for line in process.stdout if "search page" in line)
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
        assert found is not None, line
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=120)
        connection.request("GET", f"/?q={quote(QUERY)}")
        answer = connection.getresponse().read().decode()
        connection.close()
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0
    assert errors == ""
    assert re.findall(r'<section id="(\w+)">', answer) == ["trained", "start", "bm25"]
    hit: Hit = open_search(searched).hits(QUERY, top=1)[0]
    assert f"<span>{hit.document}</span><span>{hit.score:.3f}</span>" in answer
