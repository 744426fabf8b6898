"""Validation on pairs of texts: how well the vectors of queries find their passages among all of the validation set."""

from __future__ import annotations

import torch
from torch.nn import functional

from mlm_dist.batches.loader import validation_batches
from mlm_dist.batches.pairs import NUM_KEYS
from mlm_dist.batches.shapes import Rows
from mlm_dist.engine.protocol import Engine
from mlm_dist.objectives.contrastive import TEMPERATURE, Unchanged, normalized, pair_scores
from mlm_dist.objectives.figures import PairFigures
from mlm_dist.terminal.stages import stage


@torch.no_grad()
def evaluate_pairs(engine: Engine, rows: Rows, micro_size: int, *, static: bool = False) -> PairFigures:
    """Evaluate the engine's model on pairs, each query against the passages of all of them; collective.

    As in training, pairs of one document or its near-duplicates, and those with the same query or passage, do not
    count against each other. The loss has the default temperature, so that runs can be compared.

    Args:
        engine: The engine, its model in training mode.
        rows: The pairs.
        micro_size: Pairs per forward pass.
        static: Whether all micro-batches have the same shape.
    """
    found, keys, places = [], [], []
    engine.model.eval()
    with stage("validation of pairs", len(rows), "pairs", leaves_after=None) as shown:
        batches = validation_batches(rows, Unchanged(), micro_size, engine.rank, engine.world_size, static=static)
        for i, batch in enumerate(batches):
            engine.progress.count += 1
            assert batch.pairs is not None
            first = (i * engine.world_size + engine.rank) * micro_size
            places.append(torch.arange(first, first + len(batch.pairs.keys)))
            keys.append(batch.pairs.keys)
            found.append(normalized(engine.model(*batch.to(engine.device).inputs).vectors))
            shown.advance(min(micro_size * engine.world_size, (shown.total or 0) - shown.done))
    engine.model.train()
    place = torch.cat(places).to(engine.device)
    vectors = torch.zeros(len(rows), *found[0].shape[1:], device=engine.device)
    all_keys = torch.zeros(len(rows), NUM_KEYS, dtype=torch.int64, device=engine.device)
    vectors[place], all_keys[place] = torch.cat(found), torch.cat(keys).to(engine.device)
    vectors, all_keys = engine.sum(vectors), engine.sum(all_keys)
    scores = pair_scores(vectors, all_keys, range(len(rows)))
    loss = functional.cross_entropy(scores / TEMPERATURE, torch.arange(len(rows), device=engine.device))
    # Equally similar passages count against the model; the right one is among them.
    ranks = (scores >= scores.diagonal()[:, None]).sum(1)
    return PairFigures(
        loss=float(loss),
        recall_at_1=float((ranks <= 1).float().mean()),
        mrr=float((1 / ranks).mean()),
        num_pairs=len(rows),
    )
