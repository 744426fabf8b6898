"""Filters and formatters of datatrove, applied to the cleaned text of one document at a time.

What becomes of a document depends on its text alone, not on the documents before it or on the process.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mlm_dist.corpus import filter_classes
from mlm_dist.corpus.filter_classes import CLASSES, FORMATTERS, key_of
from mlm_dist.errors import ConfigError, CorpusError, reason

IN_EXTRA = ("datatrove", "fasteners", "ftfy", "spacy")
# Sentences and paragraphs that no filter drops before it has split them into words.
SAMPLE = "\n\n".join(
    f"The river number {one} flows to the sea, and it has {many} bends that the people who live there know well. Those "
    f"who {verb} along it have seen a mill with a wheel of wood, where the miller keeps {one} {animal} and a garden."
    for one, many, verb, animal in (
        *(("one", "a few", "walk", "goat"), ("two", "some", "ride", "cats")),
        *(("three", "many", "sail", "geese"), ("four", "no", "drive", "dogs")),
    )
)


class Filtered(NamedTuple):
    """What a filter made of a text.

    Args:
        text: The text, which it may have changed.
        reason: Why the document is dropped; None if it is kept.
    """

    text: str
    reason: str | None = None


Step = tuple[str, Callable[[str], Filtered]]  # the name of a class, and what it does


def check(filters: Mapping[str, Any]) -> None:
    """Refuse `corpus.filters` that cannot be made.

    Raises:
        ConfigError: A class or an argument is wrong, or a package is not installed.
    """
    for name in filters:
        filter_classes.check_name(name)
    for name, given in filters.items():
        if not isinstance(given, dict | None):
            raise ConfigError(f"{key_of(name)}: expected a dict of arguments, such as {{}}, got {given}")
        _versions(name, given or {})
        filter_classes.arguments(name, given or {})


def dependencies(filters: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the result depends on besides the documents; nothing without filters.

    Raises:
        ConfigError: A package is not installed.
    """
    if not filters:
        return {}
    versions = {
        one: version for name, given in filters.items() for one, version in _versions(name, given or {}).items()
    }
    return {"filters": [[name, given or {}] for name, given in filters.items()], "filter_versions": versions}


def load(filters: Mapping[str, Any]) -> Sequence[Step]:
    """The filters of a config, ready for documents: what they download is there.

    Raises:
        ConfigError: A package is not installed.
        CorpusError: A filter cannot run on this machine.
    """
    return _loaded(json.dumps(filters)) if filters else ()


@functools.lru_cache(maxsize=1)  # a process works on many shards
def _loaded(filters: str) -> Sequence[Step]:
    from loguru import logger as of_datatrove

    of_datatrove.disable("datatrove")
    return tuple(_step(name, given or {}) for name, given in json.loads(filters).items())


def _step(name: str, given: Mapping[str, Any]) -> Step:
    _versions(name, given)
    of_class, values = filter_classes.constructor(name), filter_classes.arguments(name, given)
    _refuse_download(name)
    try:
        _refuse_pickles(values.get("language"))
        run = _formatter(of_class, values) if name in FORMATTERS else _filter(name, of_class(**values))
        run(SAMPLE)
    except Exception as error:  # wrong values, no network, a package of a language: many types
        because = f"{type(error).__name__}: {reason(error)}"
        if CLASSES[name].downloads is not None:
            raise CorpusError(
                f"{key_of(name)}: {name} cannot be used ({because}); it needs a file from the network: run the same "
                "command where there is one, or remove the filter"
            ) from None
        raise CorpusError(
            f"{key_of(name)}: {name} cannot be used ({because}); change its arguments, or remove it"
        ) from None

    def on_document(text: str) -> Filtered:
        try:
            return run(text)
        except (TimeoutError, MemoryError):
            raise
        except Exception as error:  # datatrove's filters fail on a few unusual texts
            return Filtered(text, f"{name}: fails with {type(error).__name__}")

    return name, on_document


def _filter(name: str, made: Any) -> Callable[[str], Filtered]:
    from datatrove.data import Document
    from datatrove.pipeline.filters.base_filter import get_filter_result

    def run(text: str) -> Filtered:
        document = Document(text, "")
        is_kept, why = get_filter_result(made.filter(document))
        return Filtered(document.text, None if is_kept else f"{name}: {why}" if why else name)

    return run


def _formatter(of_class: Any, values: Mapping[str, Any]) -> Callable[[str], Filtered]:
    # PIIFormatter counts through its replacements, from one document to the next. A new one begins again.
    return lambda text: Filtered(of_class(**values).format(text))


def _versions(name: str, given: Mapping[str, Any]) -> dict[str, str]:
    """{package: version} of the packages that a class needs with some arguments.

    Raises:
        ConfigError: One is not installed.
    """
    language = str(given.get("language"))
    needed = ("datatrove", *CLASSES[name].requires, *filter_classes.OF_LANGUAGE.get(language, ()))
    versions = {}
    for package in needed:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            install = "'mlm_dist[scale]'" if package in IN_EXTRA else package
            raise ConfigError(
                f"{key_of(name)}: needs the package {package}; install it with: pip install {install}"
            ) from None
    return versions


def _refuse_download(name: str) -> None:
    """Refuse a class whose file is not in the cache if the environment says that there is no network.

    Raises:
        CorpusError: It would download the file.
    """
    from huggingface_hub import constants

    where = CLASSES[name].downloads
    if where is None or not constants.HF_HUB_OFFLINE:
        return
    there = Path(constants.HF_ASSETS_CACHE, "datatrove", where).rglob("*")
    if not any(path.is_file() and path.suffix != ".lock" for path in there):
        raise CorpusError(
            f"{key_of(name)}: {name} needs a file from the network, which is not in the cache, and HF_HUB_OFFLINE is "
            "set; run the same command once without it, or remove the filter"
        )


def _refuse_pickles(language: str | None) -> None:
    """Refuse a language whose words datatrove finds with a pickled model.

    Raises:
        ValueError: It does.
    """
    from datatrove.utils.word_tokenizers import load_word_tokenizer

    if language is not None:
        words = load_word_tokenizer(language)
        if type(words).__name__ not in filter_classes.WORD_TOKENIZERS or words.language in filter_classes.PICKLED:
            raise ValueError(f"words of language {language} are found by {type(words).__name__}, which may unpickle")
