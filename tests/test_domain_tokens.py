"""Domain tokens: the right words, no other word split differently, initial embeddings, correct figures."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import launching
import numpy as np
import pytest
import torch
from making import made_up_text
from models import architecture, build
from specs import prepare
from transformers import CONFIG_MAPPING, AutoModelForMaskedLM, BertForMaskedLM, RemBertForMaskedLM

from mlm_dist.config import Config, parse
from mlm_dist.corpus import row_shards, summary
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.corpus.tokenizer import domain_tokens, loading, training
from mlm_dist.corpus.tokenizer.batch_tokenizer import BatchTokenizer, WordCache
from mlm_dist.errors import ModelError

KINDS = ("wordpiece", "bpe", "unigram")
LETTERS = " ".join("abcdefghijklmnopqrstuvwxyzÜKQ0123456789,.-_()")
GENERAL = [f"{made_up_text(i, 300)} {LETTERS}" for i in range(40)]
WORDS = ["kubernetes", "keyvault", "kube", "Überschrift", "quorum", "fabrikam"]
MORE = [f"{a}{b}" for a in ("azur", "hsm", "quack") for b in ("ex", "wy", "zip", "job", "fun")]
MORE += ["bak", "dil", "mur"]  # prefixes of syllables of the other words


def domain_text(seed: int) -> str:
    """Made-up sentences with words that a tokenizer trained on GENERAL does not have."""
    draw = np.random.default_rng(seed)
    words = made_up_text(seed + 500, 200).split()
    for word, often in zip([*WORDS, *MORE], [12, 8, 6, 4, 3, 2] + [1] * len(MORE), strict=True):
        for _ in range(often):
            words.insert(int(draw.integers(len(words))), word)
    return " ".join(words) + " keyvault, (quorum) kubernetes-fabrikam kubernetesque once" + str(seed)


DOMAIN = [domain_text(i) for i in range(12)]


@pytest.fixture(scope="module")
def bases() -> dict[str, Any]:
    return {kind: training.train(kind, lambda: GENERAL, 700, 64) for kind in KINDS}


@pytest.fixture(scope="module")
def extended(bases: dict[str, Any]) -> dict[str, tuple[Any, list[domain_tokens.DomainToken]]]:
    return {kind: domain_tokens.add(bases[kind], DOMAIN, 20) for kind in KINDS}


def ids_of(tokenizer: Any, text: str) -> list[int]:
    found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


def undone(ids: list[int], added: list[domain_tokens.DomainToken]) -> list[int]:
    """The ids with each added token replaced by its pieces."""
    pieces = {one.id: one.pieces for one in added}
    return [piece for i in ids for piece in pieces.get(i, (i,))]


@pytest.mark.parametrize("kind", KINDS)
def test_words_are_those_that_shorten_the_documents_most(bases: dict[str, Any], extended: Any, kind: str) -> None:
    """Words are counted again with regular expressions."""
    base, (_, added) = bases[kind], extended[kind]
    counts: Counter[str] = Counter()
    for text in DOMAIN:
        for space, word in re.findall(r"( ?)\b([^\W\d_]+)(?![^\W\d_])", f" {text}" if kind == "unigram" else text):
            if kind == "wordpiece":
                counts[base.backend_tokenizer.normalizer.normalize_str(word)] += 1
            elif kind == "bpe":
                counts["".join(base.backend_tokenizer.pre_tokenizer.pre_tokenize_str(space + word)[0][0])] += 1
            elif space:
                counts["▁" + word] += 1
    size = {word: len(base.backend_tokenizer.model.tokenize(word)) for word in counts}
    gain = {word: number * (size[word] - 1) for word, number in counts.items() if number > 1 and size[word] > 1}
    expected = sorted(gain, key=lambda word: (-gain[word], word))[:20]
    assert [one.token for one in added] == expected
    assert [one.occurrences for one in added] == [counts[word] for word in expected]
    assert [one.id for one in added] == list(range(700, 720))
    plain = {one.token.strip("Ġ▁").lower() for one in added}
    assert {"kubernetes", "keyvault", "quorum", "fabrikam"} <= plain
    assert not any(one.token.startswith("once") for one in added)


@pytest.mark.parametrize("kind", KINDS)
def test_added_word_is_one_token_in_any_context(extended: Any, kind: str, tmp_path: Path) -> None:
    new, added = extended[kind]
    loading.save(new, tmp_path)
    ids = {one.id for one in added}
    for tokenizer in (new, loading.load(str(tmp_path))):
        for text in (
            "ba kubernetes di",
            "ba kubernetes, di",
            "ba (x kubernetes)",
            "ba kubernetes-ba",
            "ba kubernetes\nba",
        ):
            found = ids_of(tokenizer, text)
            assert len(set(found) & ids) == 1, text
            word = next(i for i in found if i in ids)
            assert tokenizer.decode([word]).strip() == "kubernetes"
            assert tokenizer.decode(found).replace(" ", "") == text.replace(" ", "").replace(
                "\n", "\n" * (kind == "bpe")
            )
        assert ids_of(tokenizer, "[MASK] kubernetes [MASK].").count(tokenizer.mask_token_id) == 2
    if kind == "wordpiece":
        assert set(ids_of(new, "KUBERNETES Kubernetes")) <= ids


def others(words: list[str]) -> list[str]:
    """Words that contain an added word, are contained in one, or neither."""
    changed = [f"{word}s" for word in words] + [f"x{word}" for word in words] + [word[:-1] for word in words]
    changed += [f"{word}1" for word in words] + [f"{word}é" for word in words] + [f"{word}_io" for word in words]
    changed += [a + b for a in words[:6] for b in words[:6]]
    return changed + [word for text in (*GENERAL, *DOMAIN) for word in set(text.split())]


@pytest.mark.parametrize("kind", KINDS)
def test_no_other_word_is_split_differently(bases: dict[str, Any], extended: Any, kind: str) -> None:
    base, (new, added) = bases[kind], extended[kind]
    listed = {one.token.strip("Ġ▁") for one in added}
    new_ids = {one.id for one in added}
    normalized = base.backend_tokenizer.normalizer.normalize_str if kind == "wordpiece" else str
    for word in others(sorted(listed)):
        parts = re.split(r"[^\w]+", word)
        if kind == "bpe":  # its own pre-tokenizer also separates numbers from letters
            parts = [part.strip("Ġ") for part, _ in base.backend_tokenizer.pre_tokenizer.pre_tokenize_str(word)]
        if set(map(normalized, parts)) & listed:
            continue
        for text in (word, f"ba {word} di", f"({word})", f"{word}, {word}"):
            ids = ids_of(new, text)
            if kind == "unigram":  # cuts vanish inside an added word; all others stay where they were
                assert undone(ids, added) == ids_of(base, text), text
            else:
                assert ids == ids_of(base, text) and not set(ids) & new_ids, text


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_differ_only_in_added_words(bases: dict[str, Any], extended: Any, kind: str) -> None:
    base, (new, added) = bases[kind], extended[kind]
    odd = " kubernetes\tkeyvault\r\nquorum\u00a0fabrikam\u3000kubernetes 漢字kube \U0001f600 é\u0301kube\x00 [x]kube"
    texts = [*GENERAL[:5], *DOMAIN, odd]
    for text in texts:
        assert undone(ids_of(new, text), added) == ids_of(base, text)
    saved = sum(len(ids_of(base, text)) - len(ids_of(new, text)) for text in DOMAIN)
    counted = sum(one.occurrences * (len(one.pieces) - 1) for one in added)
    assert saved == counted if kind != "unigram" else saved >= counted
    assert saved > 0.1 * sum(len(ids_of(base, text)) for text in DOMAIN)


def test_symbol_after_an_added_word_becomes_a_token(extended: Any) -> None:
    """The one exception that WordPiece has: the library knows word characters and others, no third kind."""
    new, added = extended["wordpiece"]
    assert ids_of(new, "kubernetes™")[0] in {one.id for one in added}


@pytest.mark.parametrize("kind", KINDS)
def test_words_can_be_added_twice(extended: Any, kind: str) -> None:
    new, added = extended[kind]
    again, more = domain_tokens.add(new, ["ba zzyzx-ke zzyzx di kubernetes " * 5, *DOMAIN], 500)
    assert len(again) == 720 + len(more) and {one.token for one in more}.isdisjoint(one.token for one in added)
    assert "zzyzx" in {one.token.strip("Ġ▁") for one in more}
    assert again.mask_token_id == new.mask_token_id == 4


@pytest.mark.parametrize("kind", KINDS)
def test_tokenizer_is_unchanged_without_words_to_add(bases: dict[str, Any], kind: str) -> None:
    same, added = domain_tokens.add(bases[kind], ["12345 678 -- ||| == kubernetes"], 5)
    assert added == [] and loading.digest(same) == loading.digest(bases[kind])


def test_ids_of_added_tokens_do_not_change(bases: dict[str, Any]) -> None:
    """Tokens that were added to a tokenizer before, such as ModernBERT's, are no part of its model's vocabulary."""
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerFast

    for kind in ("bpe", "unigram"):
        backend = Tokenizer.from_str(bases[kind].backend_tokenizer.to_str())
        backend.add_tokens([AddedToken("<<one>>", special=True), AddedToken("<<two>>", normalized=False)])
        named = {f"{name}_token": token for name, token in training.SPECIAL.items()}
        base = PreTrainedTokenizerFast(tokenizer_object=backend, **named)
        new, added = domain_tokens.add(base, DOMAIN, 3)
        assert [one.id for one in added] == [702, 703, 704] and len(new) == 705
        assert ids_of(new, "<<two>>ba<<one>>") == ids_of(base, "<<two>>ba<<one>>")
        assert 701 in ids_of(new, "<<two>>")


def test_tokenizer_that_cannot_be_extended_is_refused(bases: dict[str, Any]) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    for model in (models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"), models.BPE(end_of_word_suffix="</w>")):
        plain = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), unk_token="[UNK]")
        with pytest.raises(ModelError, match=r"^tokenizer\.add_domain_tokens: .* set the key to null"):
            domain_tokens.add(plain, DOMAIN, 5)


def test_fast_methods_agree_with_domain_tokens(extended: Any, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("nanotoken")
    new, _ = extended["wordpiece"]
    tokenizer = BatchTokenizer(new)
    assert tokenizer.fast is not None
    texts = [*DOMAIN, *others(WORDS), "kubernetes™ é\u0301kubernetes kubernetes_x"]
    ids, _ = tokenizer(texts)
    assert tokenizer.fast is not None and not caplog.records
    fast, _ = tokenizer.fast(texts)
    assert fast.tolist() == ids.tolist() == [i for text in texts for i in ids_of(new, text)]
    word_cache = WordCache.fit(new.backend_tokenizer)
    assert word_cache is not None and word_cache(texts)[0].tolist() == ids.tolist()
    for kind in ("bpe", "unigram"):
        assert BatchTokenizer(extended[kind][0]).fast is None
    assert not [record for record in caplog.records if record.name.startswith("mlm_dist")]


SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 66,
}
ROLES = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
CHECKPOINTS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("wordpiece", {}),
    "distilbert": ("wordpiece", {"dim": 32, "hidden_dim": 48, "n_layers": 1, "n_heads": 2}),
    "roberta": ("bpe", ROLES),
    "modernbert": ("bpe", ROLES),
    "deberta-v2": ("unigram", {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "xlm-roberta": ("unigram", ROLES),
}


def checkpoint(folder: Path, name: str, tokenizer: Any, **changes: Any) -> Path:
    """A tiny model with random weights, its biases too, saved with its tokenizer."""
    torch.manual_seed(1)
    shape = SMALL | CHECKPOINTS.get(name, ("", {}))[1] | {"vocab_size": len(tokenizer)} | changes
    model = AutoModelForMaskedLM.from_config(CONFIG_MAPPING[name](**shape))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder / name)
    loading.save(tokenizer, folder / name)
    return folder / name


def grown(path: Path, new: Any, added: list[domain_tokens.DomainToken], *flags: str) -> Any:
    config = parse([f"--model.name_or_path={path}", "--rows.max_length=64", *flags])
    pieces = {one.id: list(one.pieces) for one in added}
    return build(config, architecture(config, new, len(added)), pieces).eval()


@pytest.mark.parametrize("name", list(CHECKPOINTS))
def test_new_tokens_start_as_the_mean_of_their_pieces(bases: Any, extended: Any, tmp_path: Path, name: str) -> None:
    kind = CHECKPOINTS[name][0]
    new, added = extended[kind]
    path = checkpoint(tmp_path, name, bases[kind])
    old, model = AutoModelForMaskedLM.from_pretrained(path).eval(), grown(path, new, added)
    assert model.config.vocab_size == 720
    before, after = (one.get_input_embeddings().weight for one in (old, model))
    assert torch.equal(after[:700], before)
    for one in added:
        assert torch.allclose(after[one.id], before[list(one.pieces)].mean(0), atol=1e-6)
    # The output layer is linear: logits of new tokens are means of logits, those of old ones are what they were.
    input_ids = torch.randint(5, 700, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, logits = old(input_ids=input_ids).logits, model(input_ids=input_ids).logits
    assert torch.allclose(logits[..., :700], expected, atol=1e-5)
    for one in added:
        assert torch.allclose(logits[..., one.id], expected[..., list(one.pieces)].mean(-1), atol=1e-5)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


@pytest.mark.parametrize(
    ("name", "kind", "changes"),
    [("bert", BertForMaskedLM, {"tie_word_embeddings": False}), ("rembert", RemBertForMaskedLM, {})],
)
def test_untied_output_embeddings_start_the_same_way(
    bases: Any, extended: Any, tmp_path: Path, name: str, kind: Any, changes: dict[str, Any]
) -> None:
    if name == "rembert":
        changes = {"input_embedding_size": 16, "output_embedding_size": 24}
    new, added = extended["wordpiece"]
    path = checkpoint(tmp_path, name, bases["wordpiece"], **changes)
    old, model = kind.from_pretrained(path), grown(path, new, added)
    assert model.get_input_embeddings().weight is not model.get_output_embeddings().weight
    for tensor in ("get_input_embeddings().weight", "get_output_embeddings().weight", "get_output_embeddings().bias"):
        call, attribute = tensor.split("().")
        before, after = (getattr(getattr(one, call)(), attribute) for one in (old, model))
        assert torch.equal(after[:700], before) and len(after) == 720
        for one in added:
            assert torch.allclose(after[one.id], before[list(one.pieces)].mean(0), atol=1e-6)


def test_vocabulary_may_be_larger_than_the_tokenizer(bases: Any, extended: Any, tmp_path: Path) -> None:
    new, added = extended["wordpiece"]
    path = checkpoint(tmp_path, "bert", bases["wordpiece"])
    model = grown(path, new, added, "--model.overrides.vocab_size=768")
    weights = model.get_input_embeddings().weight
    assert len(weights) == 768
    for one in added:
        assert torch.allclose(weights[one.id], weights[list(one.pieces)].mean(0), atol=1e-6)
    from_scratch = grown(path, new, added, "--model.from_scratch=true")
    assert from_scratch.config.vocab_size == 720
    other = checkpoint(tmp_path / "other", "bert", bases["wordpiece"], vocab_size=690)
    with pytest.raises(ModelError, match=r"has 700 tokens, but the vocabulary .* has 690; .*vocab_size 710"):
        grown(other, new, added[:10] + added[:10], "--tokenizer.add_domain_tokens=10")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 MB in one file, enough for several shards; every text has some of the domain's words."""
    path = tmp_path_factory.mktemp("source") / "large.jsonl"
    draw = np.random.default_rng(0)
    sentences = [sentence for text in (*GENERAL, *DOMAIN) for sentence in text.split(".")]
    lines = (". ".join(sentences[i] for i in draw.integers(0, len(sentences), 14)) for _ in range(2200))
    path.write_text("\n".join(json.dumps({"text": line}) for line in lines))
    return path


def flags_for(source: Path, cache: Path, tokenizer: Path) -> list[str]:
    names = {"corpus.source": source, "corpus.cache_dir": cache, "tokenizer.path": tokenizer, "rows.max_length": 32}
    return [f"--{name}={value}" for name, value in names.items()] + ["--tokenizer.add_domain_tokens=25"]


def config(source: Path, cache: Path, tokenizer: Path, *flags: str) -> Config:
    return parse([*flags_for(source, cache, tokenizer), *flags])


def hashes(corpus: PreparedCorpus) -> dict[str, str]:
    return {name: file["sha256"] for name, file in corpus.manifest["files"].items()}


@pytest.fixture(scope="module")
def tokenizer_folder(bases: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    loading.save(bases["wordpiece"], folder)
    return folder


@pytest.fixture(scope="module")
def prepared(source: Path, tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> PreparedCorpus:
    return prepare(config(source, tmp_path_factory.mktemp("cache"), tokenizer_folder))


def test_manifest_has_the_tokens_saved(
    prepared: PreparedCorpus, source: Path, tokenizer_folder: Path, tmp_path: Path
) -> None:
    without = prepare(config(source, tmp_path, tokenizer_folder, "--tokenizer.add_domain_tokens=null"))
    gained = prepared.manifest["domain_tokens"]
    assert gained["added"] == len(prepared.domain_tokens) == 25
    assert gained["tokens_before"] == without.manifest["tokens"]["kept"]
    assert gained["tokens_after"] == prepared.manifest["tokens"]["kept"] < gained["tokens_before"]
    assert gained["percent_saved"] == pytest.approx(
        100 * (1 - gained["tokens_after"] / gained["tokens_before"]), abs=0.01
    )
    assert without.manifest["domain_tokens"] is None and without.domain_tokens == {}
    assert without.digest != prepared.digest
    # Truncated rows hold fewer tokens; the documents have the same tokens.
    cut = prepare(config(source, tmp_path, tokenizer_folder, "--rows.mode=truncate"))
    assert cut.manifest["tokens"]["dropped"] > 0 and cut.manifest["domain_tokens"] == gained

    listed = json.loads((prepared.folder / "domain_tokens.json").read_text("utf-8"))
    texts = [text for _, split, text in prepared.documents() if split == "train"]
    _, expected = domain_tokens.add(loading.load(str(tokenizer_folder)), texts, 25)
    assert [(one["token"], one["occurrences"]) for one in listed] == [(one.token, one.occurrences) for one in expected]


def test_summary_has_a_line_on_domain_tokens(prepared: PreparedCorpus) -> None:
    from rich.console import Console

    console = Console(width=200)
    with console.capture() as captured:
        console.print(summary.table(prepared.manifest, "here"))
    before = prepared.manifest["domain_tokens"]["tokens_before"]
    assert f"domain tokens: {before:,} tokens without them" in captured.get()


def test_shards_differ_if_the_domain_tokens_are_part_of_the_original_tokenizer(
    prepared: PreparedCorpus, source: Path, tokenizer_folder: Path, tmp_path: Path
) -> None:
    """The rows are equal, but the figures about domain tokens are not."""
    flags = ("--tokenizer.add_domain_tokens=null",)
    first = prepare(config(source, tmp_path, prepared.folder / "tokenizer", *flags))
    assert first.manifest["tokens"] == prepared.manifest["tokens"] and first.manifest["domain_tokens"] is None
    second = prepare(config(source, tmp_path, tokenizer_folder))
    assert second.manifest["domain_tokens"] == prepared.manifest["domain_tokens"]


@pytest.mark.slow
def test_corpus_does_not_depend_on_processes_and_interruptions(
    prepared: PreparedCorpus, source: Path, tokenizer_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = str(launching.free_port())

    def live(rank: int) -> launching.Ended:
        return launching.python(
            "prepare.py",
            *flags_for(source, tmp_path / "two", tokenizer_folder),
            timeout=120,
            RANK=str(rank),
            WORLD_SIZE="2",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
            PYTHONHASHSEED=str(rank),
        )

    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(live, range(2)))
    assert [one.returncode for one in ended] == [0, 0], [one.output for one in ended]
    assert hashes(PreparedCorpus(tmp_path / "two" / prepared.digest)) == hashes(prepared)

    begun, finished = itertools.count(), itertools.count()  # two threads count at once
    original = row_shards.make

    def halting(*arguments: Any) -> None:
        if next(begun) == 2:
            raise KeyboardInterrupt
        original(*arguments)
        next(finished)

    with monkeypatch.context() as patch:
        patch.setattr(row_shards, "make", halting)
        with pytest.raises(KeyboardInterrupt):
            prepare(config(source, tmp_path / "cache", tokenizer_folder))
        num_begun, num_finished = next(begun), next(finished)
        found = prepare(config(source, tmp_path / "cache", tokenizer_folder))
    num_shards = len(found.manifest["shards"])
    assert 2 <= num_finished < num_shards
    assert next(begun) - num_begun - 1 == num_shards - num_finished
    assert hashes(found) == hashes(prepared)


@pytest.mark.parametrize("name", list(CHECKPOINTS))
def test_saved_model_predicts_an_added_word(bases: Any, extended: Any, tmp_path: Path, name: str) -> None:
    kind = CHECKPOINTS[name][0]
    new, added = extended[kind]
    grown(checkpoint(tmp_path, name, bases[kind]), new, added).save_pretrained(tmp_path / "model")
    loading.save(new, tmp_path / "model")
    check_answers(tmp_path / "model")


@pytest.mark.slow
def test_exported_model_predicts_an_added_word(bases: Any, tmp_path: Path) -> None:
    """All the way, in a process of its own, as a user would."""
    path = checkpoint(tmp_path, "roberta", bases["bpe"])
    (tmp_path / "documents").mkdir()
    for i, text in enumerate(DOMAIN):
        (tmp_path / "documents" / f"{i}.md").write_text(text, "utf-8")
    ended = launching.python(
        "train.py",
        f"--corpus.source={tmp_path}/documents",
        f"--corpus.cache_dir={tmp_path}/cache",
        f"--output_dir={tmp_path}/run",
        f"--model.name_or_path={path}",
        "--tokenizer.add_domain_tokens=20",
        "--rows.max_length=32",
        "--optim.duration=2 steps",
        "--tracking.trackers=[]",
    )
    assert ended.returncode == 0, ended.output
    assert re.search(r"added \d+ domain tokens, counted on \d+ documents", ended.output)
    check_answers(tmp_path / "run" / "model")


def check_answers(folder: Path) -> None:
    """Whether a fill-mask pipeline knows the new word and can answer with it."""
    from transformers import pipeline

    fill = pipeline("fill-mask", model=str(folder))
    size = len(fill.tokenizer)
    assert size == fill.model.config.vocab_size > 700
    new = ids_of(fill.tokenizer, "ba kubernetes")[-1]
    assert new >= 700
    answers = fill("ba ke [MASK] di lo.", top_k=size)
    (answer,) = [one for one in answers if one["token"] == new]
    assert answer["token_str"].strip() == "kubernetes"
    assert answer["sequence"].replace(" .", ".") == "ba ke kubernetes di lo."
    assert sum(one["score"] for one in answers) == pytest.approx(1, abs=1e-3)
