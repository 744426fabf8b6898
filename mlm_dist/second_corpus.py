"""Documents of another source as rows of the run's tokenizer: to be validated on, or replayed."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from mlm_dist.batches.mixture import MixedOrder
from mlm_dist.batches.order import SampleOrder
from mlm_dist.config import Config, value_of
from mlm_dist.corpus import sources
from mlm_dist.corpus.rows import RowTable
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.errors import ConfigError, CorpusError
from mlm_dist.prepare import prepare

VALIDATED, REPLAYED = "validation.second_source", "corpus.replay_source"


def check(config: Config) -> None:
    """Refuse a second source that cannot be one, before any work is done.

    Raises:
        ConfigError: It is neither here nor a name that can be elsewhere.
    """
    for key in (VALIDATED, REPLAYED):
        if value_of(config, key) is not None:
            with _as_config_error():
                sources.recognize(value_of(config, key), key)


def to_validate(config: Config, corpus: PreparedCorpus) -> tuple[PreparedCorpus, RowTable]:
    """What `validation.second_source` names, and its rows: all of them, unless they are replayed as well.

    Raises:
        ConfigError: It cannot be used.
    """
    is_trained_on = config.validation.second_source == config.corpus.replay_source
    found = _prepare(config, VALIDATED, corpus, config.corpus.validation_fraction if is_trained_on else 0.0)
    return found, _not_empty(VALIDATED, found, "validation" if is_trained_on else "train")


def to_train_on(
    config: Config, corpus: PreparedCorpus, own: RowTable
) -> tuple[RowTable, SampleOrder | MixedOrder, str | None]:
    """The training rows and their order: the own ones, and with `corpus.replay_source` those of that corpus mixed in.

    Returns:
        Also the digest of the other corpus, None without one.

    Raises:
        ConfigError: It cannot be used.
    """
    order = SampleOrder(len(own), config.seed)
    if config.corpus.replay_source is None:
        return own, order, None
    found = _prepare(config, REPLAYED, corpus, config.corpus.validation_fraction)
    rows = _not_empty(REPLAYED, found, "train")
    mixed = MixedOrder(order, SampleOrder(len(rows), config.seed), config.corpus.replay_share)
    return own.followed_by(rows), mixed, found.digest


def _prepare(config: Config, key: str, corpus: PreparedCorpus, validation_fraction: float) -> PreparedCorpus:
    tokenizer = dataclasses.replace(
        config.tokenizer, path=str(corpus.folder / "tokenizer"), train_vocab_size=None, add_domain_tokens=None
    )
    documents = dataclasses.replace(
        config.corpus, source=value_of(config, key), validation_fraction=validation_fraction, export=None
    )
    with _as_config_error():
        return prepare(dataclasses.replace(config, corpus=documents, tokenizer=tokenizer), key)


def _not_empty(key: str, corpus: PreparedCorpus, split: str) -> RowTable:
    rows = corpus.rows(split)
    if not len(rows):
        name = Path(corpus.manifest["source"]["location"]).name
        raise ConfigError(f"{key}: the documents of {name} hold no token; name another")
    return rows


@contextlib.contextmanager
def _as_config_error() -> Iterator[None]:
    """Raise the errors of a source as config errors."""
    try:
        yield
    except CorpusError as error:
        raise ConfigError(str(error)) from None
