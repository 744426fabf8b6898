"""Advice in the table of the plan job: how many tokens are usual, and a share of general text against forgetting."""

from __future__ import annotations

from collections.abc import Iterator

from mlm_dist.spec import Spec

TOKENS_PER_PARAMETER = 20  # from random weights (Hoffmann et al., 2022, https://arxiv.org/abs/2203.15556)
REPLAY = "5% to 25%"  # for text that is like that of the pretraining, or of another domain (Ibrahim et al., 2024)


def advice(spec: Spec, num_tokens: float) -> Iterator[str]:
    """What is usual and differs from this run, in sentences.

    Args:
        spec: The run.
        num_tokens: Tokens of the run, at most.
    """
    if spec.model.from_scratch:
        ratio = num_tokens / spec.shape.parameters
        if ratio < TOKENS_PER_PARAMETER:
            yield (
                f"{ratio:.2g} tokens per parameter; from random weights {TOKENS_PER_PARAMETER} or more are usual "
                "(Hoffmann et al., 2022), so a smaller model, more text or a pretrained model learns more"
            )
        return
    yield (
        f"{_count(num_tokens)} tokens; published runs that continue an encoder take 10 to 60 billion, small corpora "
        "several epochs with validation.patience"
    )
    if len(spec.trained_on or spec.corpus.sources) == 1:
        yield (
            f"a model that continues on one source forgets others: {REPLAY} of general text is usual (Ibrahim et al., "
            "2024), see corpus.mix and --preset small_corpus"
        )


def _count(number: float) -> str:
    for name, size in (("billion", 1e9), ("million", 1e6)):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return f"{number:,.0f}"
