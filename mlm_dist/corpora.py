"""The corpora of a run, one for each kind of rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from mlm_dist.corpus import pipeline
from mlm_dist.corpus.pipeline import prepare
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.spec import CorpusSpec, RowsSpec, Spec


@dataclass(frozen=True)
class Corpora:
    """The corpora of a run: the same documents, split and tokenizer in each kind of rows.

    Args:
        main: The corpus with the rows to validate on.
        of_rows: The corpus with each kind of rows.
        pairs: The corpus whose rows are pairs of texts; None if the last phase does not learn from pairs.
    """

    main: PreparedCorpus
    of_rows: Mapping[RowsSpec, PreparedCorpus]
    pairs: PreparedCorpus | None = None

    @property
    def is_packed(self) -> bool:
        """Whether rows of some kind may hold several chunks, which must not attend to each other."""
        return any(corpus.is_packed for corpus in self.of_rows.values())


def load_or_prepare(spec: Spec) -> Corpora:
    """The corpora of a run, prepared if they are not in the cache; called on every rank.

    Raises:
        CorpusError: A source cannot be used, or nothing of it can be trained on.
        PeerError: Another rank failed.
    """
    ranks = spec.launch.rank, spec.launch.world_size
    main = prepare(spec.corpus, *ranks)
    of_rows = {spec.corpus.rows: main}
    for rows in (phase.rows for phase in spec.phases):
        if rows not in of_rows:
            of_rows[rows] = prepare(_with_rows(spec.corpus, main, rows), *ranks)
    last = of_rows[spec.phases[-1].rows]
    return Corpora(main, of_rows, last if last.has_pairs else None)


def find(spec: Spec) -> tuple[dict[RowsSpec, PreparedCorpus], dict[str, int] | None]:
    """The prepared corpora of the phases that are in the cache, and the bytes of the sources; see `pipeline.find`."""
    main, sizes = pipeline.find(spec.corpus)
    found = {} if main is None else {spec.corpus.rows: main}
    if main is not None:
        for rows in {phase.rows for phase in spec.phases}:
            corpus = found.get(rows) or pipeline.find(_with_rows(spec.corpus, main, rows))[0]
            if corpus is not None:
                found[rows] = corpus
    return found, sizes


def _with_rows(spec: CorpusSpec, main: PreparedCorpus, rows: RowsSpec) -> CorpusSpec:
    """The spec of the same documents in other rows, with the tokenizer of a prepared corpus."""
    tokenizer = dataclasses.replace(
        spec.tokenizer, path=str(main.folder / "tokenizer"), key="tokenizer.path", add_domain_tokens=0, revision=None
    )
    documents = dataclasses.replace(spec.documents, export=None)
    return dataclasses.replace(spec, tokenizer=tokenizer, documents=documents, rows=rows)
