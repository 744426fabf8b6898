"""The corpus of a run, and the order in which its training rows come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlm_dist.batches.mixture import WHOLE, Order, mixed_order
from mlm_dist.corpus.pipeline import prepare
from mlm_dist.corpus.rows import RowTable
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.spec import Spec


@dataclass(frozen=True)
class Corpora:
    """The corpora of a run.

    Args:
        main: The corpus to train on.
    """

    main: PreparedCorpus

    def training_rows(self, seed: int, mix: Mapping[str, float]) -> tuple[RowTable, Order]:
        """The training rows and their order.

        Args:
            seed: Random seed of the order.
            mix: {source: share}; empty for one order over the rows of all sources.
        """
        rows = self.main.rows("train")
        parts = self.main.source_rows("train") if mix else {WHOLE: range(len(rows))}
        return rows, mixed_order(parts, mix or {WHOLE: 1.0}, seed)


def load_or_prepare(spec: Spec) -> Corpora:
    """The corpora of a run, prepared if they are not in the cache; called on every rank.

    Raises:
        CorpusError: A source cannot be used, or nothing of it can be trained on.
        PeerError: Another rank failed.
    """
    return Corpora(prepare(spec.corpus, spec.launch.rank, spec.launch.world_size))
