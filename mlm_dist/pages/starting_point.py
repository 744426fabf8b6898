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
from mlm_dist.pages.documents import Sample, chars_per_token, dropped_names, samples


@dataclass(frozen=True)
class StartingPoint:
    """The corpus and the predictions of the starting model.

    Args:
        corpus: The part of the corpus manifest that the report shows, and the names of dropped documents.
        examples: The cloze examples; none if the corpus has no validation rows.
        before: The starting model's predictions for them.
        samples: Cleaned documents.
        chars_per_token: Characters per token of the validation documents; None if there are none.
    """

    corpus: dict[str, Any]
    examples: Sequence[ClozeExample]
    before: Sequence[Prediction]
    samples: Sequence[Sample] = ()
    chars_per_token: float | None = None

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
        shown = {key: manifest[key] for key in MANIFEST_KEYS if key in manifest} | {"dropped": dropped_names(manifest)}
        return cls(
            corpus=shown,
            examples=examples,
            before=predict(model, corpus.tokenizer, examples),
            samples=samples(corpus),
            chars_per_token=chars_per_token(corpus),
        )

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
            before = [Prediction(**prediction) for prediction in values["before"]]
            shown = [Sample(**one) for one in values["samples"]]
            return cls(values["corpus"], examples, before, shown, values["chars_per_token"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"unexpected content: {error}") from None

    def save(self, path: Path) -> None:
        """Write report.json."""
        values = {
            "corpus": self.corpus,
            "examples": [asdict(example) for example in self.examples],
            "before": [asdict(prediction) for prediction in self.before],
            "samples": [asdict(sample) for sample in self.samples],
            "chars_per_token": self.chars_per_token,
        }
        write_json(path, values, indent=1)
