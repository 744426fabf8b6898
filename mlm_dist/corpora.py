"""The corpora of a run: the one to train on, and those of a replay source and a second validation source."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlm_dist.batches.mixture import MixedOrder
from mlm_dist.batches.order import SampleOrder
from mlm_dist.corpus import pipeline
from mlm_dist.corpus.pipeline import prepare
from mlm_dist.corpus.rows import RowTable
from mlm_dist.corpus.sources import source_keys
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.errors import ConfigError, CorpusError
from mlm_dist.resolve import REPLAY_SOURCE, SECOND_SOURCE
from mlm_dist.spec import CorpusSpec, RowsSpec, SourceSpec, Spec


@dataclass(frozen=True)
class Corpora:
    """Prepared corpora, all with the tokenizer of the first.

    Args:
        main: The corpus, with the rows to validate on.
        of_rows: The same documents in each kind of rows that a phase trains on.
        replay: The corpus of `corpus.replay_source`; None without one.
        second: The corpus of `validation.second_source`, and the split of it to validate on; None without one.
    """

    main: PreparedCorpus
    of_rows: Mapping[RowsSpec, PreparedCorpus]
    replay: PreparedCorpus | None
    second: tuple[PreparedCorpus, str] | None

    @property
    def is_packed(self) -> bool:
        """Whether rows of some kind may hold several chunks, which must not attend to each other."""
        return self.main.is_packed or any(corpus.is_packed for corpus in self.of_rows.values())

    def training_rows(
        self, kind: RowsSpec, seed: int, replay_share: float
    ) -> tuple[RowTable, SampleOrder | MixedOrder]:
        """The training rows of a kind and their order; rows of the replay source are mixed in.

        Args:
            kind: How documents became rows.
            seed: Random seed of the order.
            replay_share: Fraction of the samples that are replayed.
        """
        rows = self.of_rows[kind].rows("train")
        order = SampleOrder(len(rows), seed)
        if self.replay is None:
            return rows, order
        replayed = self.replay.rows("train")
        mixed = MixedOrder(order, SampleOrder(len(replayed), seed), replay_share)
        return rows.followed_by(replayed), mixed


def load_or_prepare(spec: Spec) -> Corpora:
    """The corpora of a run, prepared if they are not in the cache; called on every rank.

    Raises:
        CorpusError: The source cannot be used, or nothing of it can be trained on.
        ConfigError: The same of a second source.
        PeerError: Another rank failed.
    """
    ranks = spec.launch.rank, spec.launch.world_size
    main = prepare(spec.corpus, *ranks)

    def other(key: str, source: str, validation_fraction: float, split: str) -> PreparedCorpus:
        try:
            corpus = prepare(_like(spec.corpus, main, key, source, validation_fraction), *ranks)
        except CorpusError as error:
            raise ConfigError(str(error)) from None
        if not len(corpus.rows(split)):
            name = Path(corpus.manifest["sources"][0]["location"]).name
            raise ConfigError(f"{key}: the documents of {name} hold no tokens; use another source")
        return corpus

    fraction = spec.corpus.documents.validation_fraction
    replay = second = None
    if spec.replay_source is not None:
        replay = other(REPLAY_SOURCE, spec.replay_source, fraction, "train")
    if spec.second_source is not None:
        # All rows of the second source, unless it is replayed: then only those that are not trained on.
        is_replayed = spec.second_source == spec.replay_source
        split = "validation" if is_replayed else "train"
        second = other(SECOND_SOURCE, spec.second_source, fraction if is_replayed else 0.0, split), split
    of_rows = {spec.corpus.rows: main}
    for rows in (phase.rows for phase in spec.phases):
        if rows not in of_rows:
            of_rows[rows] = prepare(_with_rows(spec.corpus, main, rows), *ranks)
    return Corpora(main, of_rows, replay, second)


def find(spec: Spec) -> tuple[dict[RowsSpec, PreparedCorpus], int | None]:
    """The prepared corpora of the phases that are in the cache, and the bytes of the sources; see `pipeline.find`."""
    main, num_bytes = pipeline.find(spec.corpus)
    found = {} if main is None else {spec.corpus.rows: main}
    if main is not None:
        for rows in {phase.rows for phase in spec.phases}:
            corpus = found.get(rows) or pipeline.find(_with_rows(spec.corpus, main, rows))[0]
            if corpus is not None:
                found[rows] = corpus
    return found, num_bytes


def _like(spec: CorpusSpec, main: PreparedCorpus, key: str, source: str, validation_fraction: float) -> CorpusSpec:
    """The spec of another source, with the tokenizer of a prepared corpus."""
    documents = dataclasses.replace(spec.documents, validation_fraction=validation_fraction)
    # Keys of one dataset, such as the number of its rows, mean nothing for another.
    its_own: dict[str, Any] = dict.fromkeys((*source_keys.OPTIONS, "separator", "group"))
    config = dataclasses.replace(spec.sources[0].config, source=source, **its_own)
    if validation_fraction == 0:
        config = dataclasses.replace(config, split=None)  # all its documents are used, whatever their records say
    sources = (SourceSpec(key, config),)
    return dataclasses.replace(_with_tokenizer(spec, main), sources=sources, documents=documents)


def _with_rows(spec: CorpusSpec, main: PreparedCorpus, rows: RowsSpec) -> CorpusSpec:
    """The spec of the same documents in other rows."""
    return dataclasses.replace(_with_tokenizer(spec, main), rows=rows)


def _with_tokenizer(spec: CorpusSpec, main: PreparedCorpus) -> CorpusSpec:
    """The spec with the tokenizer of a prepared corpus."""
    tokenizer = dataclasses.replace(
        spec.tokenizer, path=str(main.folder / "tokenizer"), key="tokenizer.path", add_domain_tokens=0, revision=None
    )
    return dataclasses.replace(spec, tokenizer=tokenizer, documents=dataclasses.replace(spec.documents, export=None))
