"""The filters and formatters of datatrove that a config may name, and which of their arguments it may give."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mlm_dist import names
from mlm_dist.config.value_types import shown
from mlm_dist.errors import ConfigError


@dataclass(frozen=True)
class FilterClass:
    """A filter or formatter.

    Args:
        requires: Packages, by their names on PyPI, that it needs besides datatrove.
        fixed: Arguments that are not free to choose.
        downloads: Folder in datatrove's part of the Hugging Face cache that holds what it downloads; None if it
            downloads nothing.
    """

    requires: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    downloads: str | None = None


FASTTEXT = ("fasttext-numpy2-wheel", "fasteners")
FILTERS = {
    "C4BadWordsFilter": FilterClass(("fasteners",), ("keep_fraction", "seed"), "filters/c4_badwords"),
    "C4ParagraphFilter": FilterClass(),
    "C4QualityFilter": FilterClass(("spacy",)),
    "FineWebQualityFilter": FilterClass(("spacy",)),
    "GopherQualityFilter": FilterClass(("spacy",)),
    "GopherRepetitionFilter": FilterClass(("spacy",)),
    "LanguageFilter": FilterClass(FASTTEXT, (), "lid"),
    "RegexFilter": FilterClass(),
    "UnigramLogProbFilter": FilterClass(("spacy",), (), "filters/unigram_logprob_filter"),
}
FORMATTERS = {
    "FTFYFormatter": FilterClass(("ftfy",)),
    "PIIFormatter": FilterClass(),
    "SymbolLinesFormatter": FilterClass(),
}
CLASSES = FILTERS | FORMATTERS
REFUSED = {
    "FastTextClassifierFilter": "reads a model that the digest of a corpus does not know",
    "LambdaFilter": "takes a function, which a config cannot hold",
    "SamplerFilter": "draws at random, so that its result depends on the order of documents",
    "URLFilter": "needs the address of a web page, which documents do not have",
}
NEVER = ("exclusion_writer", "batch_size")  # arguments of all filters that are about whole files of documents
# The others load pickled models.
WORD_TOKENIZERS, PICKLED = ("SpaCyTokenizer", "WhitespaceTokenizer"), ("vi",)
# Packages that spaCy needs for a language.
OF_LANGUAGE = {"zh": ("jieba",), "ja": ("sudachipy", "sudachidict_core")}


def key_of(name: str) -> str:
    """The config key of a filter."""
    return f"corpus.filters.{name}"


def check_name(name: str) -> None:
    """Refuse a class that is none of `CLASSES`.

    Raises:
        ConfigError: Says why, and lists those.
    """
    if name in REFUSED:
        raise ConfigError(f"{key_of(name)}: it {REFUSED[name]}; choose from {', '.join(CLASSES)}")
    if name not in CLASSES:
        near = names.nearest(name, CLASSES)
        hint = near if near.startswith("choose") else f"{near}; choose from {', '.join(CLASSES)}"
        raise ConfigError(f"{key_of(name)}: is no filter or formatter of datatrove for single documents; {hint}")


def constructor(name: str) -> Any:
    """A class of datatrove, which must be installed."""
    from datatrove.pipeline import filters, formatters

    return getattr(filters if name in FILTERS else formatters, name)


def arguments(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a class as its constructor takes them: YAML has lists where Python has tuples.

    Raises:
        ConfigError: An argument is unknown, missing, not free to choose, or of another type.
    """
    parameters = inspect.signature(constructor(name)).parameters
    fixed = (*NEVER, *CLASSES[name].fixed)
    free = {one: parameter for one, parameter in parameters.items() if one not in fixed}
    for one in given:
        key = f"{key_of(name)}.{one}"
        if one in fixed:
            raise ConfigError(f"{key}: is not free to choose; remove it")
        if one not in free:
            have = f"choose from {', '.join(free)}" if free else "it has none"
            raise ConfigError(f"{key}: {name} has no such argument; {have}")
    required = [one for one, parameter in free.items() if parameter.default is inspect.Parameter.empty]
    if missing := [one for one in required if one not in given]:
        raise ConfigError(f"{key_of(name)}: {name} needs {' and '.join(missing)}; add them")
    values = {}
    for one, value in given.items():
        try:
            # Some arguments have a default of None that their type does not name.
            values[one] = None if value is free[one].default is None else converted(value, free[one].annotation)
        except TypeError:
            kind = inspect.formatannotation(free[one].annotation)
            raise ConfigError(f"{key_of(name)}.{one}: expected {kind}, got {shown(repr(value))}") from None
    return values


_PLAIN = {bool: (bool,), int: (int,), float: (int, float), str: (str,), type(None): (type(None),)}


def converted(value: Any, kind: Any) -> Any:
    """A value of a config as a type that a class of datatrove names: lists become tuples where it wants them.

    Raises:
        TypeError: It does not fit.
    """
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        for part in parts:
            try:
                return converted(value, part)
            except TypeError:
                continue
    elif origin is Literal and any(value == part and type(value) is type(part) for part in parts):
        return value
    elif origin in (list, tuple) and isinstance(value, list | tuple):
        # datatrove writes tuple[tuple[int, float]] for any number of pairs, and no type says how many there are.
        within: Any = typing.Union[tuple(part for part in parts if part is not Ellipsis)]  # noqa: UP007
        return origin(converted(one, within) for one in value)
    elif kind in _PLAIN and type(value) in _PLAIN[kind]:
        return value
    raise TypeError
