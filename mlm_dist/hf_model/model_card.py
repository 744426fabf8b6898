"""The model card: what the model was trained on, its validation loss, how to use it and how to train it again."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mlm_dist import __version__
from mlm_dist.config import ModelConfig
from mlm_dist.hf_model.data_statement import data_statement
from mlm_dist.hf_model.licenses import LICENSES
from mlm_dist.hf_model.task_section import task_section
from mlm_dist.hf_model.validated_weights import ValidatedWeights, cell
from mlm_dist.model.architecture import is_architecture
from mlm_dist.objectives import is_contrastive
from mlm_dist.pages.record import Record
from mlm_dist.pages.run_facts import run_facts

LIBRARIES = ("torch", "transformers", "tokenizers", "accelerate")
LOCAL = ("folder", "file")  # kinds of sources that are on the disk of the one who trains
SHOWN = ("seed", "rows.", "masking.", "batch.", "optim.")  # settings that the card lists as decided
METRICS = {"loss": "Validation loss (nats per masked token)", "perplexity": "Perplexity", "accuracy": "Accuracy"}


@dataclass(frozen=True)
class CardContent:
    """What a model card says.

    Args:
        name: Name of the model.
        location: Its repository on the Hub; None if it is not uploaded, so that it is loaded from its folder.
        model_type: Type of its transformers configuration, such as bert.
        base_model: The model on the Hub that training started from; None if it started from a folder or from random
            weights.
        dtype: Data type of its weights.
        mask_token: Mask token of its tokenizer.
        step: Step of its weights.
        manifest: Manifest of the corpus it was trained on.
        record: Record of the run.
        config_yaml: Config of the run as YAML, without credentials.
        license: Licence of the model; None if it is not stated.
        language: Languages of the documents; empty if they are not stated.
        settings: Settings of the run as decided, flat.
        average: What its weights are the average of: ema, a number of checkpoints, or None for those of the step.
        tasks: Results of the validate job's tasks for its weights; None if there are none.
    """

    name: str
    location: str | None
    model_type: str
    base_model: str | None
    dtype: str
    mask_token: str
    step: int
    manifest: dict[str, Any]
    record: Record
    config_yaml: str
    license: str | None = None
    language: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    average: int | Literal["ema"] | None = None
    tasks: Mapping[str, Any] | None = None

    @property
    def is_search_model(self) -> bool:
        """Whether it learnt from pairs of texts at the end."""
        return is_contrastive(str(self.record.start.get("objective")))

    @property
    def weights(self) -> ValidatedWeights:
        """The weights and their validation."""
        return ValidatedWeights(self.record, self.step, self.average)


def base_model(model: ModelConfig) -> str | None:
    """The model on the Hub that training starts from; None for a folder, or random weights."""
    name = model.init_from or model.name_or_path
    is_local = os.path.isdir(os.path.expanduser(name))
    return None if model.from_scratch or is_local or is_architecture(name) else name


def model_card(content: CardContent) -> Any:
    """The card as a `huggingface_hub.ModelCard`."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    sources = content.manifest["sources"]
    validation = content.weights.validation
    results = [
        EvalResult(
            task_type="fill-mask",
            task_name="Masked language modelling",
            dataset_type=f"mlm_dist/{content.manifest['digest']}",
            dataset_name=f"held-out documents of {', '.join(source['location'] for source in sources)}",
            dataset_split="validation",
            dataset_revision=sources[0]["commit"] if len(sources) == 1 else None,
            metric_type=metric,
            metric_name=title,
            metric_value=validation[metric],
        )
        for metric, title in METRICS.items()
        if validation is not None and validation[metric] is not None
    ]
    data = ModelCardData(
        model_name=content.name,
        **_license(content.license),
        language=list(content.language) or None,
        library_name="sentence-transformers" if content.is_search_model else "transformers",
        pipeline_tag="sentence-similarity" if content.is_search_model else "fill-mask",
        base_model=content.base_model,
        datasets=[source["location"] for source in sources if source["kind"] == "hub"] or None,
        tags=["sentence-transformers" if content.is_search_model else "fill-mask", content.model_type, "mlm_dist"],
        eval_results=results or None,
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_text(content)}")


def _license(license: str | None) -> dict[str, Any]:
    """The fields of the head for a licence: one that the Hub does not know is `other`, with its name."""
    if license is None:
        return {}
    return {"license": license} if license in LICENSES else {"license": "other", "license_name": license}


def _text(content: CardContent) -> str:
    version = content.record.start.get("version", __version__)
    location = json.dumps(content.location or ".", ensure_ascii=False)
    where = "" if content.location else "Run these programs in the folder of this model.\n\n"
    return f"""# {content.name}

{_kind(content)} trained with mlm_dist {version}{_start(content)}.

{_stated(content)}

## Use

{where}{_first_use(content, location)}

Embed texts, with the pooling of `1_Pooling/config.json`:

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer({location})
print(model.encode(["one text", "another text"]).shape)
```

Load its encoder to fine-tune a classifier:

```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({location})
model = AutoModelForSequenceClassification.from_pretrained({location}, num_labels=2)
```

## Validation

{content.weights.table()}
{task_section(content.tasks)}
## Data

{data_statement(content.manifest)}

## Training

{_facts(content)}

To train it again, install mlm_dist {version}, save this config as `config.yaml` and run the line
below.{_documents_needed(content.manifest)}

```bash
mlm-dist train --config config.yaml
```

```yaml
{content.config_yaml}```
"""


def _kind(content: CardContent) -> str:
    if content.is_search_model:
        return "A search model, which maps queries and passages that answer them to similar vectors,"
    return "A masked language model"


def _first_use(content: CardContent, location: str) -> str:
    """What the model is for, as a program."""
    if content.is_search_model:
        return f"""Rank passages by a query:

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer({location})
vectors = model.encode(["how do I rotate keys", "Keys are rotated in the portal.", "Rates are limited."])
print(model.similarity(vectors[:1], vectors[1:]))
```"""
    return f"""Predict a masked word:

```python
from transformers import pipeline

fill = pipeline("fill-mask", model={location})
for guess in fill("The {content.mask_token} is missing."):
    print(guess["token_str"], guess["score"])
```"""


def _start(content: CardContent) -> str:
    if content.base_model is not None:
        return f", starting from {content.base_model}"
    return ", starting from random weights" if content.record.start.get("from_scratch") else ""


def _stated(content: CardContent) -> str:
    """Licence and languages; neither is guessed."""
    license, languages = content.license or "not stated", ", ".join(content.language) or "not stated"
    given = {"export.license": content.license, "export.language": content.language}
    missing = [f"`{key}`" for key, one in given.items() if not one]
    text = f"Licence: {license}. Languages: {languages}."
    return f"{text} Set {' and '.join(missing)} and export again to state them." if missing else text


def _documents_needed(manifest: Mapping[str, Any]) -> str:
    """What must be on the disk before the model can be trained again."""
    local = [source["location"] for source in manifest["sources"] if source["kind"] in LOCAL]
    if not local:
        return ""
    names = ", ".join(f"`{name}`" for name in local)
    return f" The documents are not part of this repository: the config expects them at {names}."


def _facts(content: CardContent) -> str:
    facts = {
        "weights": f"{content.dtype}, {content.weights.description}",
        **{name: text for name, text in run_facts(content.record).items() if name not in ("corpus", "mlm_dist")},
        **{key: str(value) for key, value in content.settings.items() if key.startswith(SHOWN)},
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }
    return "| | |\n|---|---|\n" + "\n".join(f"| {cell(name)} | {cell(text)} |" for name, text in facts.items())


def versions() -> dict[str, str]:
    """{name: version} of Python and the libraries that train and export."""
    return {"Python": platform.python_version()} | {name: importlib.metadata.version(name) for name in LIBRARIES}
