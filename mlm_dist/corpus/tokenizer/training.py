"""Training a tokenizer on documents; the same documents give the same bytes in every run."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import Any

from mlm_dist.corpus.tokenizer.training_texts import count

NAMES = {"wordpiece": "WordPiece", "bpe": "byte-level BPE", "unigram": "Unigram"}
BYTE_NAMES = "<0x123456789ABCDEF>"  # all characters in the names of Unigram's byte tokens
SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}

LONGEST = 100  # characters of a word that wordpiece looks up as a whole, as in BERT
FEW = 0.0005  # fraction of characters in longer words
LONG_RUN = re.compile(rf"\S{{{LONGEST + 1},}}")
SHORT_RUN = re.compile(r"\S{1,500}")  # sentencepiece skips words of more than 4,192 bytes

Texts = Callable[[], Iterable[str]]  # each call iterates over all texts


def train(kind: str, texts: Texts, vocab_size: int, max_length: int, uncased: bool | None = None) -> Any:
    """Train a tokenizer with BERT's special tokens, whose ids are 0 to 4.

    All kinds serve every script. bpe and unigram split letters that are too rare for the vocabulary into bytes. In
    wordpiece up to half of the vocabulary are letters, more if longer pieces leave room; rarer letters are unknown.

    Args:
        kind: wordpiece is like BERT's. bpe is byte-level and lossless, like RoBERTa's and ModernBERT's. unigram keeps
            neither the kind and amount of white space nor Unicode's compatibility forms.
        texts: Each call iterates over all texts; memory grows with them.
        vocab_size: Tokens of the tokenizer; fewer if the texts hold fewer.
        max_length: The tokenizer's `model_max_length`.
        uncased: Whether letters lose case and accents, as in BERT's uncased models. By default only wordpiece makes
            letters lower case, and all kinds keep accents and other marks.
    """
    from tokenizers import AddedToken, processors
    from transformers import PreTrainedTokenizerFast

    backend = {"wordpiece": _wordpiece, "bpe": _byte_level_bpe, "unigram": _unigram}[kind](texts, vocab_size, uncased)
    backend.add_special_tokens([token for name, token in SPECIAL.items() if name != "mask"])
    # In bpe and unigram a token includes the space before it, so the mask token replaces both.
    backend.add_special_tokens([AddedToken(SPECIAL["mask"], lstrip=kind != "wordpiece", normalized=False)])
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, backend.token_to_id(token)) for token in (SPECIAL["cls"], SPECIAL["sep"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=max_length,
        # Rows are never pairs, so token types are not trained; many architectures have none.
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        **{f"{name}_token": token for name, token in SPECIAL.items()},
    )


def _wordpiece(texts: Texts, vocab_size: int, uncased: bool | None) -> Any:
    """A WordPiece backend.

    The library numbers letters inside words in an order that changes from run to run, and breaks ties between merges by
    these numbers. Here every letter gets its number before training.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    bert = normalizers.BertNormalizer(lowercase=uncased is not False, strip_accents=uncased is True)
    # Removing accents takes the letters of Korean apart.
    normalizer = normalizers.Sequence([bert, normalizers.NFC()] if uncased else [normalizers.NFC(), bert])
    pre_tokenizer: Any = pre_tokenizers.BertPreTokenizer()
    if _has_long_words(texts(), lambda text: pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text))):
        long = pre_tokenizers.Split(Regex(rf"\S{{{LONGEST}}}\p{{M}}*"), "isolated")
        pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizer, long])
    counts = count(map(normalizer.normalize_str, texts()), str)

    def entries(letter: str) -> list[str]:
        """The entries of the vocabulary for a letter: one if it is always a word of its own, as in Chinese."""
        words = pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(f"a{letter}a"))
        return [letter] if len(words) == 3 else [letter, f"##{letter}"]

    letters = _alphabet(counts, vocab_size // 2, lambda letter: len(entries(letter)))
    numbered = [*SPECIAL.values(), *letters, *(entry for letter in letters for entry in entries(letter)[1:])]

    def assemble(model: Any) -> Any:
        backend = Tokenizer(model)
        backend.normalizer = normalizer
        backend.pre_tokenizer = pre_tokenizer
        return backend

    trained = assemble(models.WordPiece(unk_token=SPECIAL["unk"]))
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=numbered,
        initial_alphabet=letters,
        limit_alphabet=len(letters),
        show_progress=False,
    )
    trained.train_from_iterator(texts(), trainer)
    # The trainer treats all numbered tokens as special; the tokenizer must not.
    vocab = trained.get_vocab()
    rest = Counter({letter: number for letter, number in counts.items() if letter not in vocab})
    for letter in _alphabet(rest, vocab_size - len(vocab), lambda letter: len(entries(letter))):
        for entry in entries(letter):
            vocab.setdefault(entry, len(vocab))
    backend = assemble(models.WordPiece(vocab=vocab, unk_token=SPECIAL["unk"], max_input_chars_per_word=2 * LONGEST))
    backend.decoder = decoders.WordPiece(prefix="##")
    return backend


def _has_long_words(texts: Iterable[str], words: Callable[[str], list[tuple[str, Any]]]) -> bool:
    """Whether more than `FEW` of the characters are in words that are too long to be looked up piece by piece.

    Languages such as Thai have no spaces between words. Other texts keep the usual rule for words, because more methods
    to tokenize fast know it.
    """
    total = in_long = 0
    for text in texts:
        total += len(text)
        for run in LONG_RUN.findall(text):
            in_long += sum(len(word) for word, _ in words(run) if len(word) > LONGEST)
    return in_long > FEW * total


def _byte_level_bpe(texts: Texts, vocab_size: int, uncased: bool | None) -> Any:
    """A byte-level BPE backend. Its letters are the 256 bytes, so the library breaks ties the same way in every run."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    if uncased:
        backend.normalizer = normalizers.Sequence(_plain_letters())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts(), trainer)
    return backend


def _plain_letters() -> list[Any]:
    """Normalizers that make letters lower case and remove their accents and other marks."""
    from tokenizers import normalizers

    return [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase(), normalizers.NFC()]


def _unigram(texts: Texts, vocab_size: int, uncased: bool | None) -> Any:
    """A Unigram backend, trained by sentencepiece on sorted words in one thread, which always gives the same scores.

    The trainer of `tokenizers` iterates over a hash table, and its scores differ from run to run.
    """
    import sentencepiece
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    letters_kept = _plain_letters() if uncased else []
    normalizer = normalizers.Sequence([normalizers.NFKC(), *letters_kept, normalizers.Replace(Regex(r"\s+"), " ")])
    counts = count(texts(), lambda text: SHORT_RUN.findall(normalizer.normalize_str(text)))
    in_words: Counter[str] = Counter()
    for word, number in counts.items():
        for letter in word:
            in_words[letter] += number
    letters = _alphabet(in_words, (vocab_size - len(SPECIAL) - 256) // 2)
    letters += BYTE_NAMES
    rare = {ord(letter): " " for letter in in_words.keys() - set(letters)}  # they are split into bytes
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(
            f"{word.translate(rare)}\t{number}" for word, number in [(BYTE_NAMES, 1), *sorted(counts.items())]
        ),
        input_format="tsv",
        model_writer=trained,
        model_type="unigram",
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        character_coverage=1.0,
        byte_fallback=True,
        num_threads=1,
        minloglevel=2,
        pad_id=0,
        pad_piece=SPECIAL["pad"],
        unk_id=1,
        unk_piece=SPECIAL["unk"],
        bos_id=2,
        bos_piece=SPECIAL["cls"],
        eos_id=3,
        eos_piece=SPECIAL["sep"],
        control_symbols=[SPECIAL["mask"]],
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    # If a text contains the name of a byte token, such as <0x41>, its letters are preferred to that token.
    pieces = [
        (processor.id_to_piece(i), -1000.0 if processor.is_byte(i) else processor.get_score(i))
        for i in range(processor.get_piece_size())
    ]
    backend = Tokenizer(models.Unigram(pieces, unk_id=1, byte_fallback=True))
    backend.normalizer = normalizer
    # Only the first word of a text gets a space before it; the text after a mask token may begin without one.
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")])
    return backend


def _alphabet(counts: Counter[str], limit: int, entries: Callable[[str], int] = lambda _: 1) -> list[str]:
    """The most frequent letters that fit, in the order of their code points.

    Args:
        counts: How often each occurs.
        limit: Entries of the vocabulary for all of them.
        entries: How many of them a letter takes.
    """
    ranked = sorted((letter for letter in counts if not letter.isspace()), key=lambda letter: (-counts[letter], letter))
    ends = accumulate(map(entries, ranked))
    return sorted(letter for letter, end in zip(ranked, ends, strict=True) if end <= limit)
