"""Several sources in one corpus: `corpus.sources`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from making import made_up_text
from specs import prepare

from mlm_dist.config import Config, parse
from mlm_dist.corpus import pipeline
from mlm_dist.errors import ConfigError
from mlm_dist.redaction import config_without_credentials
from mlm_dist.resolve import corpus_spec

COMMON = {"validation_fraction": 0.2, "min_chars": 50}


def made(**sections: Any) -> Config:
    """A config of dicts."""
    return Config(**sections)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders: ten Markdown documents, and ten text documents of which one is also in the first."""
    manuals, notes = tmp_path / "manuals", tmp_path / "notes"
    for folder in (manuals, notes):
        folder.mkdir()
    for i in range(10):
        (manuals / f"{i}.md").write_text(f"# Title {i}\n\n" + made_up_text(i, 80))
        (notes / f"{i}.txt").write_text(f"*{made_up_text(100 + i, 80)}*")
    (notes / "again.txt").write_text("Title 3\n\n" + made_up_text(3, 80) + " and one more word")
    return manuals, notes


def config_of(tmp_path: Path, sources: dict[str, dict[str, Any]], **corpus: Any) -> Config:
    """A config with these sources."""
    return made(
        corpus=COMMON | {"sources": sources, "cache_dir": str(tmp_path / "cache")} | corpus,
        tokenizer={"train_vocab_size": 400},
        rows={"max_length": 32},
    )


def test_documents_of_all_sources_are_in_one_corpus(folders: tuple[Path, Path], tmp_path: Path) -> None:
    manuals, notes = folders
    config = config_of(tmp_path, {"manuals": {"source": str(manuals)}, "notes": {"source": str(notes)}})
    corpus = prepare(config)
    ids = {id_ for id_, _, _ in corpus.documents()}
    assert ids == {f"manuals/{i}.md" for i in range(10)} | {f"notes/{i}.txt" for i in range(10)}
    assert corpus.manifest["duplicates"] == {"manuals/3.md": ["notes/again.txt"]}
    assert corpus.manifest["dropped"] == {"near-duplicate": ["notes/again.txt"]}


def test_manifest_counts_each_source(folders: tuple[Path, Path], tmp_path: Path) -> None:
    manuals, notes = folders
    (notes / "short.txt").write_text("short")
    config = config_of(tmp_path, {"manuals": {"source": str(manuals)}, "notes": {"source": str(notes)}})
    manifest = prepare(config).manifest
    first, second = manifest["sources"]
    assert (first["name"], first["location"], first["files"]) == ("manuals", str(manuals), 10)
    assert (second["name"], second["location"], second["files"]) == ("notes", str(notes), 12)
    assert (first["documents"]["found"], first["documents"]["kept"]) == (10, 10)
    assert (second["documents"]["found"], second["documents"]["kept"]) == (12, 10)
    for key in ("found", "kept", "train", "validation"):
        assert first["documents"][key] + second["documents"][key] == manifest["documents"][key]
    for split, rows in manifest["rows"].items():
        assert first["rows"][split] + second["rows"][split] == rows


def test_each_source_has_its_patterns_and_cleaning(folders: tuple[Path, Path], tmp_path: Path) -> None:
    manuals, notes = folders
    sources = {
        "raw": {"source": str(manuals), "patterns": ["1.md"], "clean": "none"},
        "cleaned": {"source": str(notes), "patterns": ["2.txt"], "clean": "markdown"},
    }
    texts = {id_: text for id_, _, text in prepare(config_of(tmp_path, sources)).documents()}
    assert set(texts) == {"raw/1.md", "cleaned/2.txt"}
    assert texts["raw/1.md"].startswith("# Title 1") and "*" not in texts["cleaned/2.txt"]


def test_name_and_settings_of_a_source_change_the_digest_but_not_its_folder(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    manuals, notes = folders
    moved = manuals.rename(tmp_path / "elsewhere")

    def digest(**sources: dict[str, Any]) -> str:
        return prepare(config_of(tmp_path, sources)).digest

    first = digest(a={"source": str(moved)}, b={"source": str(notes)})
    moved.rename(manuals)
    assert digest(a={"source": str(manuals)}, b={"source": str(notes)}) == first
    others = [
        digest(a={"source": str(manuals)}, c={"source": str(notes)}),
        digest(a={"source": str(manuals), "clean": "none"}, b={"source": str(notes)}),
        digest(a={"source": str(manuals)}),
    ]
    assert len({first, *others}) == 4


def test_source_alone_needs_no_name(folders: tuple[Path, Path], tmp_path: Path) -> None:
    corpus = prepare(made(corpus=COMMON | {"source": str(folders[0]), "cache_dir": str(tmp_path / "cache")}))
    assert {id_ for id_, _, _ in corpus.documents()} == {f"{i}.md" for i in range(10)}
    assert [source["name"] for source in corpus.manifest["sources"]] == [""]


def test_prepared_corpus_of_several_sources_is_found(folders: tuple[Path, Path], tmp_path: Path) -> None:
    manuals, notes = folders
    config = config_of(tmp_path, {"manuals": {"source": str(manuals)}, "notes": {"source": str(notes)}})
    assert pipeline.find(corpus_spec(config))[0] is None
    prepared = prepare(config)
    found, num_bytes = pipeline.find(corpus_spec(config))
    assert found is not None and found.digest == prepared.digest
    assert num_bytes == sum(path.stat().st_size for folder in folders for path in folder.iterdir())


@pytest.mark.parametrize(
    "flags",
    [
        ["--corpus.sources", "{a: {source: x, patterns: ['*.md', '*.txt']}, b: {source: y, clean: none}}"],
        [
            *("--corpus.sources.a.source", "x", "--corpus.sources.a.patterns", "*.md,*.txt"),
            *("--corpus.sources.b.source=y", "--corpus.sources.b.clean=none"),
        ],
    ],
)
def test_flags_name_sources(flags: list[str]) -> None:
    assert parse(flags).corpus.sources == {
        "a": {"source": "x", "patterns": ["*.md", "*.txt"]},
        "b": {"source": "y", "clean": "none"},
    }


def test_values_of_flags_are_not_taken_for_other_types() -> None:
    flags = ["--corpus.sources.a.source=on", "--corpus.sources.a.encoding=1252", "--corpus.sources.a.clean=null"]
    assert parse(flags).corpus.sources == {"a": {"source": "on", "encoding": "1252", "clean": None}}


def test_file_names_sources(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"corpus": {"sources": {"a": {"source": "x", "text": ["title", "body"]}}}}))
    (source,) = parse(["--config", str(path)]).corpus.named_sources().values()
    assert source.source == "x" and source.text == ["title", "body"]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"a": {"patterns": ["*"]}}, "corpus.sources.a: expected a dict with the key source"),
        ({"a": "x"}, "corpus.sources"),
        ({"a": {"source": "x", "name": "y"}}, "corpus.sources.a.name: unknown key; the keys of a source are source, "),
        ({"a": {"source": ""}}, "corpus.sources.a.source: must name a source"),
        ({"a": {"source": "x", "patterns": "*.md"}}, "corpus.sources.a.patterns: expected"),
        ({"a b": {"source": "x"}}, "corpus.sources.a b: a name has letters, digits, _ and - only"),
        ({"../a": {"source": "x"}}, "corpus.sources.../a: a name has letters"),
        ({"a": {"source": "x", "clean": ""}}, "corpus.sources.a.clean: must name"),
    ],
)
def test_wrong_sources_are_refused(sources: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        made(corpus={"sources": sources})


def test_both_forms_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"corpus\.sources and corpus\.patterns exclude each other"):
        made(corpus={"sources": {"a": {"source": "x"}}, "patterns": ["*.md"]})


def test_unknown_cleaning_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"corpus\.sources\.a\.clean: expected none, markdown"):
        corpus_spec(config_of(tmp_path, {"a": {"source": str(tmp_path), "clean": "maekdown"}}))


def test_missing_source_is_named_by_its_key(tmp_path: Path) -> None:
    config = config_of(tmp_path, {"a": {"source": str(tmp_path / "nowhere")}})
    with pytest.raises(Exception, match=r"corpus\.sources\.a\.source: .*nowhere does not exist"):
        prepare(config)


def test_credentials_in_the_address_of_a_source_are_removed() -> None:
    config = made(corpus={"sources": {"a": {"source": "https://me:s3cret@example.org/a.git"}}})
    assert "s3cret" not in json.dumps(config_without_credentials(config).corpus.sources)
