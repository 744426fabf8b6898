"""Prepare a corpus: documents -> clean -> deduplicate -> split -> tokenize -> rows on disk.

    python mlm_dist/prepare.py --corpus.source docs/
    accelerate launch --config_file configs/accelerate/cpu_2.yaml mlm_dist/prepare.py --corpus.source docs/

Any number of processes gives the same digest and the same bytes.
"""

from __future__ import annotations

from mlm_dist import runtime
from mlm_dist.config import Config
from mlm_dist.corpus import pipeline, summary
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.corpus.tokenizer import loading
from mlm_dist.model.build import rows_mode, tokenizer_of
from mlm_dist.spec import CorpusSpec, RowsSpec, TokenizerSpec


def main(config: Config) -> None:
    """Prepare the corpus that a config describes, or find it in the cache, and print its summary."""
    corpus = prepare(config)
    runtime.show(summary.table(corpus.manifest, str(corpus.folder)))


def prepare(config: Config, key: str = "corpus.source") -> PreparedCorpus:
    """See `pipeline.prepare`."""
    return pipeline.prepare(_corpus_spec(config, key), *runtime.rank_and_world_size())


def find(config: Config) -> tuple[PreparedCorpus | None, int | None]:
    """See `pipeline.find`."""
    return pipeline.find(_corpus_spec(config))


def _corpus_spec(config: Config, key: str = "corpus.source") -> CorpusSpec:
    path, path_key = tokenizer_of(config) or (None, "tokenizer.path")
    tokenizer = TokenizerSpec(
        path=path,
        key=path_key,
        train_vocab_size=config.tokenizer.train_vocab_size or loading.DEFAULT_VOCAB_SIZE,
        train_kind=config.tokenizer.train_kind,
        add_domain_tokens=config.tokenizer.add_domain_tokens or 0,
    )
    rows = RowsSpec(rows_mode(config), config.rows.max_length)
    return CorpusSpec(config.corpus, tokenizer, rows, needs_word_starts=config.masking.unit != "token", key=key)


if __name__ == "__main__":
    runtime.run(main, prog="prepare.py", description=__doc__)
