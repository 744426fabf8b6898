"""Several sources in one corpus: `corpus.sources`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
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
    found, sizes = pipeline.find(corpus_spec(config))
    assert found is not None and found.digest == prepared.digest
    names = ("manuals", "notes")
    assert sizes == {
        name: sum(path.stat().st_size for path in folder.iterdir()) for name, folder in zip(names, folders, strict=True)
    }


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
        (
            {"a": {"source": "x", "validation_fraction": 1.5}},
            "corpus.sources.a.validation_fraction: must be from 0 to 1",
        ),
        ({"a": {"source": "x", "validation_fraction": "x"}}, "corpus.sources.a.validation_fraction: expected float"),
        (
            {"a": {"source": "x", "validation_fraction": 1}},
            "corpus.sources: validation_fraction of one must be under 1",
        ),
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


# --- shares ---

SOURCES = ("--corpus.sources.docs.source=x", "--corpus.sources.general.source=y")


@pytest.mark.parametrize(
    "flags",
    [
        ("--corpus.mix.docs=0.9", "--corpus.mix.general=0.1"),
        ("--corpus.mix.docs", "0.9", "--corpus.mix.general", "0.1"),
        ("--corpus.mix", "{docs: 0.9, general: 0.1}"),
    ],
)
def test_flags_name_shares(flags: tuple[str, ...]) -> None:
    assert parse([*SOURCES, *flags]).corpus.mix == {"docs": 0.9, "general": 0.1}


def test_shares_add_up_within_a_thousandth() -> None:
    assert parse([*SOURCES, "--corpus.mix={docs: 0.333, general: 0.6665}"]).corpus.mix["docs"] == 0.333


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--corpus.mix={docs: 0.9, general: 0.2}",), r"^corpus\.mix: .* add up to 1, got 0\.9 \+ 0\.2 = 1\.1$"),
        (("--corpus.mix={docs: 0.9, genral: 0.1}",), r"^corpus\.mix\.genral: .*; did you mean 'general'\?$"),
        (("--corpus.mix={docs: 1.0, general: 0}",), r"^corpus\.mix\.general: must be over 0 and at most 1, got 0"),
        (("--corpus.mix={docs: -1, general: 2}",), r"^corpus\.mix\.docs: must be over 0"),
        (("--corpus.mix.docs=.nan",), r"^corpus\.mix\.docs: must be over 0 and at most 1, got nan"),
        (("--corpus.mix={docs: much}",), r"^corpus\.mix: expected {name: float}, got much"),
        (
            ("--corpus.mix={docs: 0.9, general: 0.1}", "--corpus.sources.general.validation_fraction=1"),
            r"^corpus\.mix\.general: corpus\.sources\.general\.validation_fraction is 1, so no documents are left",
        ),
    ],
)
def test_wrong_shares_are_refused(flags: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse([*SOURCES, *flags])


def test_shares_need_named_sources() -> None:
    with pytest.raises(ConfigError, match=r"^corpus\.mix: .* name them with corpus\.sources$"):
        parse(["--corpus.mix.docs=1"])


@pytest.mark.parametrize("key", ["corpus.replay_source", "corpus.replay_share", "validation.second_source"])
def test_earlier_keys_are_refused_with_the_new_spelling(key: str, tmp_path: Path) -> None:
    section, _, name = key.partition(".")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({section: {name: "https://me:s3cret@example.org/a.git"}}))
    for flags in ([f"--{key}=https://me:s3cret@example.org/a.git"], ["--config", str(tmp_path / "run.yaml")]):
        with pytest.raises(ConfigError, match=rf"^{key.replace('.', '[.]')} was replaced; write corpus: ") as error:
            parse(flags)
        assert "s3cret" not in str(error.value)
        spelling = yaml.safe_load(str(error.value).split("write ")[1].split(" (/")[0])
        assert made(**spelling).corpus.mix["docs"] > 0


# --- sides of the split ---


def sides(corpus: Any) -> dict[str, str]:
    """{id: split} of all documents."""
    return {id_: split for id_, split, _ in corpus.documents()}


def test_source_can_be_kept_for_validation(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Of near-duplicates across the sources its documents stay, so that none of its texts is trained on."""
    manuals, notes = folders
    sources: dict[str, dict[str, Any]] = {
        "manuals": {"source": str(manuals)},
        "notes": {"source": str(notes), "validation_fraction": 1},
    }
    corpus = prepare(config_of(tmp_path, sources))
    found = sides(corpus)
    assert {split for id_, split in found.items() if id_.startswith("notes/")} == {"validation"}
    assert "notes/again.txt" in found and "manuals/3.md" not in found
    assert {split for id_, split in found.items() if id_.startswith("manuals/")} == {"train", "validation"}
    assert len(corpus.source_rows("train")["notes"]) == 0 < len(corpus.source_rows("validation")["notes"])
    assert "notes" not in corpus.source_digests
    for split in ("train", "validation"):
        counts, parts, table = corpus.source_counts(split), corpus.source_rows(split), corpus.rows(split)
        assert {name: one.rows for name, one in counts.items()} == {name: len(part) for name, part in parts.items()}
        for name, part in parts.items():
            assert counts[name].tokens == table.chunks(np.array(part, np.int64))[0].sum()


def test_each_source_has_its_validation_fraction(folders: tuple[Path, Path], tmp_path: Path) -> None:
    manuals, notes = folders
    sources: dict[str, dict[str, Any]] = {
        "manuals": {"source": str(manuals), "validation_fraction": 0},
        "notes": {"source": str(notes)},
    }
    found = sides(prepare(config_of(tmp_path, sources, validation_fraction=0.4)))
    assert {split for id_, split in found.items() if id_.startswith("manuals/")} == {"train"}
    assert {split for id_, split in found.items() if id_.startswith("notes/")} == {"train", "validation"}
    whole = {"manuals": {"source": str(manuals)}, "notes": {"source": str(notes)}}
    same: dict[str, dict[str, Any]] = {
        "manuals": {"source": str(manuals), "validation_fraction": 0.2},
        "notes": {"source": str(notes)},
    }
    digests = [prepare(config_of(tmp_path, one)).digest for one in (whole, same, sources)]
    assert digests[0] == digests[1] != digests[2], "only a fraction of its own makes a difference"


@pytest.mark.parametrize("fraction", [None, 0.5, 1])
@pytest.mark.parametrize("deduplicate", ["none", "near"])
def test_no_text_of_one_source_leaks_into_the_training_rows_of_another(
    deduplicate: str, fraction: float | None, tmp_path: Path
) -> None:
    """Near-duplicates across sources are on one side of the split, whether they are kept or dropped."""
    texts = [made_up_text(i, 80) for i in range(24)]
    for name, first, last in (("a", 0, 16), ("b", 8, 24)):
        (tmp_path / name).mkdir()
        for i in range(first, last):
            (tmp_path / name / f"{i}.txt").write_text(f"{texts[i]} and more words of {name}", "utf-8")
    sources: dict[str, dict[str, Any]] = {
        "a": {"source": str(tmp_path / "a")},
        "b": {"source": str(tmp_path / "b"), "validation_fraction": fraction},
    }
    corpus = prepare(config_of(tmp_path, sources, deduplicate=deduplicate, validation_fraction=0.4))
    of: dict[str, set[str]] = {}
    for id_, split in sides(corpus).items():
        of.setdefault(id_.split("/")[1], set()).add(split)
    assert all(len(splits) == 1 for splits in of.values())
    assert len(of) == 24 and {"train"} in of.values() and {"validation"} in of.values()
    num_kept = sum(1 for _ in corpus.documents())
    assert num_kept == (32 if deduplicate == "none" else 24)
    if fraction == 1:
        assert all(splits == {"validation"} for name, splits in of.items() if int(name.split(".")[0]) >= 8)
