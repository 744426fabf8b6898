"""Training a tokenizer on documents, so that the same documents give the same bytes in every run."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from mlm_dist.corpus.tokenizer.training_texts import count

NAMES = {"wordpiece": "WordPiece", "bpe": "byte-level BPE", "unigram": "Unigram"}
BYTE_NAMES = "<0x123456789ABCDEF>"  # what the names of Unigram's bytes are made of
SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}

Texts = Callable[[], Iterable[str]]  # gives all texts, each time it is called


def train(kind: str, texts: Texts, vocab_size: int, max_length: int) -> Any:
    """Train a tokenizer with BERT's special tokens, their ids being 0 to 4.

    Args:
        kind: wordpiece is uncased and unaccented, as BERT's. bpe works on bytes and loses none of them, as RoBERTa's
            and ModernBERT's. unigram keeps case and accents and splits letters it has not learnt into bytes; it loses
            the kind and number of white space, and what Unicode calls compatibility forms.
        texts: Gives all texts, each time it is called; memory grows with them.
        vocab_size: Tokens of the tokenizer; it has fewer where the texts do not hold as many.
        max_length: What the tokenizer says is the longest input of its model.
    """
    from tokenizers import AddedToken, processors
    from transformers import PreTrainedTokenizerFast

    backend = {"wordpiece": _wordpiece, "bpe": _byte_level_bpe, "unigram": _unigram}[kind](texts, vocab_size)
    backend.add_special_tokens([token for name, token in SPECIAL.items() if name != "mask"])
    # Where a space is a part of the word behind it, the mask takes the place of both.
    backend.add_special_tokens([AddedToken(SPECIAL["mask"], lstrip=kind != "wordpiece", normalized=False)])
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, backend.token_to_id(token)) for token in (SPECIAL["cls"], SPECIAL["sep"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=max_length,
        # Rows are never pairs, so no model learns token types here; many architectures have none.
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        **{f"{name}_token": token for name, token in SPECIAL.items()},
    )


def _wordpiece(texts: Texts, vocab_size: int) -> Any:
    """The library numbers letters inside words in an order that changes from run to run, and breaks ties between merges
    by those numbers. Here every letter gets its number beforehand."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    normalizer = normalizers.BertNormalizer(lowercase=True)
    letters = _alphabet(count(map(normalizer.normalize_str, texts()), str), vocab_size // 8)
    numbered = [*SPECIAL.values(), *letters, *(f"##{letter}" for letter in letters)]

    def assemble(model: Any) -> Any:
        backend = Tokenizer(model)
        backend.normalizer = normalizer
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
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
    # To the trainer all numbered tokens were special; to the tokenizer the first few are.
    vocab = trained.get_vocab()
    backend = assemble(models.WordPiece(vocab=vocab, unk_token=SPECIAL["unk"], max_input_chars_per_word=100))
    backend.decoder = decoders.WordPiece(prefix="##")
    return backend


def _byte_level_bpe(texts: Texts, vocab_size: int) -> Any:
    """All letters are known beforehand, the 256 bytes, so that the library's ties are broken alike in every run."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
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


def _unigram(texts: Texts, vocab_size: int) -> Any:
    """Trained by sentencepiece, on sorted words and in one thread: it adds up numbers in an order that never changes.
    (The trainer of `tokenizers` goes through a hash table, and its scores differ from run to run.)"""
    import sentencepiece
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")])
    counts = count(texts(), lambda text: normalizer.normalize_str(text).split())
    in_words: Counter[str] = Counter()
    for word, number in counts.items():
        for letter in word:
            in_words[letter] += number
    letters = _alphabet(in_words, (vocab_size - len(SPECIAL) - 256) // 2)
    letters += BYTE_NAMES
    rare = {ord(letter): " " for letter in in_words.keys() - set(letters)}  # bytes stand for them
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
    found = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    # Where a text holds the name of a byte's piece, its letters shall be preferred to that.
    pieces = [
        (found.id_to_piece(i), -1000.0 if found.is_byte(i) else found.get_score(i))
        for i in range(found.get_piece_size())
    ]
    backend = Tokenizer(models.Unigram(pieces, unk_id=1, byte_fallback=True))
    backend.normalizer = normalizer
    # Only the first word of a text needs a space before it: behind a mask there may be none.
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")])
    return backend


def _alphabet(counts: Counter[str], limit: int) -> list[str]:
    """The most frequent letters, at most `limit` of them, in the order of their code points."""
    ranked = sorted((letter for letter in counts if not letter.isspace()), key=lambda letter: (-counts[letter], letter))
    return sorted(ranked[:limit])
