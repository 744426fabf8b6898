"""Prepare a corpus: documents -> clean -> deduplicate -> split -> tokenize -> rows on disk.

    python mlm_dist/prepare.py docs/
    accelerate launch --config_file configs/accelerate/cpu_2.yaml mlm_dist/prepare.py docs/

Any number of processes gives the same digest and the same bytes.
"""

from __future__ import annotations

from mlm_dist import interruption

if __name__ == "__main__":
    interruption.watch()  # the imports below take seconds

import logging

from mlm_dist import environment, ranks, runtime, system_errors
from mlm_dist.config import Config
from mlm_dist.corpus import pipeline, summary
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.resolve import corpus_spec
from mlm_dist.terminal.console import text_of

logger = logging.getLogger("mlm_dist.prepare")  # __name__ is __main__ if this file is launched


@environment.restored()
@system_errors.explained()
def run(config: Config) -> PreparedCorpus:
    """Prepare the corpus that a config describes, or find it in the cache, and log its summary; called on every rank.

    Raises:
        CorpusError: The source cannot be used, or no document is left to train on.
        ModelError: The tokenizer cannot be loaded, or `rows.mode` is open and the model does not exist.
        PeerError: Another rank failed.
    """
    corpus = pipeline.prepare(corpus_spec(config), ranks.rank(), ranks.world_size(), is_job=True)
    logger.info(text_of(summary.table(corpus.manifest, str(corpus.folder))))
    return corpus


if __name__ == "__main__":
    runtime.main(run, prog="prepare.py", description=__doc__)
