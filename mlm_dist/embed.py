"""Train a search model on the titles, headings and sections of documents, from a run or from a named model.

    python mlm_dist/embed.py runs/mine
    python mlm_dist/embed.py docs/ --model.name_or_path sentence-transformers/all-MiniLM-L6-v2
    accelerate launch --config_file configs/accelerate/zero2.yaml mlm_dist/embed.py runs/mine

It is a training with the preset `search`. That of a run has the documents and the validation split of the run, begins
from its exported model and goes to `<run>-search`.
"""

from __future__ import annotations

from mlm_dist import interruption

if __name__ == "__main__":
    interruption.watch()  # the imports below take seconds

from collections.abc import Sequence

from mlm_dist import objectives, runtime, train
from mlm_dist.config import Config, parse_search_model
from mlm_dist.errors import ConfigError
from mlm_dist.training.callbacks import Callback
from mlm_dist.training.result import TrainResult


def run(config: Config, callbacks: Sequence[Callback] = ()) -> TrainResult:
    """Train a search model; as `train.run`.

    Raises:
        ConfigError: The run does not end with learning from pairs of texts.
    """
    last = config.phases[-1].get("objective", config.objective) if config.phases else config.objective
    if not objectives.is_contrastive(str(last)):
        raise ConfigError(f"objective: {last} trains no search model; set it to contrastive, or write mlm-dist train")
    return train.run(config, callbacks)


if __name__ == "__main__":
    runtime.main(run, prog="embed.py", description=__doc__, read=parse_search_model)
