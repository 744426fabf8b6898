"""What the report needs from the start of a run and cannot compute later: report.json in the run directory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.evaluation.cloze import ClozeExample, choose_examples
from mlm_dist.evaluation.fill_mask import Prediction, predict
from mlm_dist.files import write_json
from mlm_dist.pages.corpus_table import MANIFEST_KEYS


@dataclass(frozen=True)
class StartingPoint:
    """The corpus and the predictions of the starting model.

    Args:
        corpus: The part of the corpus manifest that the report shows.
        examples: The cloze examples; none if the corpus has no validation rows.
        before: The starting model's predictions for them.
    """

    corpus: dict[str, Any]
    examples: Sequence[ClozeExample]
    before: Sequence[Prediction]

    @classmethod
    def of(cls, model: Any, corpus: PreparedCorpus) -> StartingPoint:
        """Choose the examples and predict them.

        Args:
            model: The starting model.
            corpus: The corpus it will be trained on.
        """
        manifest = corpus.manifest
        examples: list[ClozeExample] = []
        if manifest["rows"]["validation"]:
            max_length = manifest["config"]["rows"]["max_length"]
            examples = choose_examples(corpus.documents(), corpus.tokenizer, max_length)
        shown = {key: manifest[key] for key in MANIFEST_KEYS if key in manifest}
        return cls(shown, examples, predict(model, corpus.tokenizer, examples))

    @classmethod
    def load(cls, path: Path) -> StartingPoint:
        """Read report.json.

        Raises:
            OSError: It cannot be read.
            ValueError: It is not what `save` wrote.
        """
        values = json.loads(path.read_text("utf-8"))
        try:
            examples = [ClozeExample(**example) for example in values["examples"]]
            return cls(values["corpus"], examples, [Prediction(**prediction) for prediction in values["before"]])
        except (KeyError, TypeError) as error:
            raise ValueError(f"unexpected content: {error}") from None

    def save(self, path: Path) -> None:
        """Write report.json."""
        values = {
            "corpus": self.corpus,
            "examples": [asdict(example) for example in self.examples],
            "before": [asdict(prediction) for prediction in self.before],
        }
        write_json(path, values, indent=1)
