"""The model card: what the model was trained on, its validation loss, how to use it and how to train it again."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from mlm_dist import __version__
from mlm_dist.config import ModelConfig
from mlm_dist.corpus import summary
from mlm_dist.model.architecture import is_architecture
from mlm_dist.pages.formats import plural
from mlm_dist.pages.record import Record
from mlm_dist.pages.run_facts import run_facts

METRICS = {"loss": "Validation loss (nats per masked token)", "perplexity": "Perplexity", "accuracy": "Accuracy"}


@dataclass(frozen=True)
class CardContent:
    """What a model card says.

    Args:
        name: Name of the model.
        location: Where it can be loaded from: its repository on the Hub, or its folder.
        model_type: Type of its transformers configuration, such as bert.
        base_model: The model on the Hub that training started from; None if it started from a folder or from random
            weights.
        dtype: Data type of its weights.
        mask_token: Mask token of its tokenizer.
        step: Step of its weights.
        manifest: Manifest of the corpus it was trained on.
        record: Record of the run.
        config_yaml: Config of the run as YAML, without credentials.
    """

    name: str
    location: str
    model_type: str
    base_model: str | None
    dtype: str
    mask_token: str
    step: int
    manifest: dict[str, Any]
    record: Record
    config_yaml: str


def base_model(model: ModelConfig) -> str | None:
    """The model on the Hub that training starts from; None for a folder, or random weights."""
    name = model.init_from or model.name_or_path
    is_local = os.path.isdir(os.path.expanduser(name))
    return None if model.from_scratch or is_local or is_architecture(name) else name


def model_card(content: CardContent) -> Any:
    """The card as a `huggingface_hub.ModelCard`."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    sources = content.manifest["sources"]
    validation = content.record.validation.get(content.step)
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
        library_name="transformers",
        pipeline_tag="fill-mask",
        base_model=content.base_model,
        datasets=[source["location"] for source in sources if source["kind"] == "hub"] or None,
        tags=["fill-mask", content.model_type, "mlm_dist"],
        eval_results=results or None,
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_text(content)}")


def _text(content: CardContent) -> str:
    version = content.record.start.get("version", __version__)
    location = json.dumps(content.location, ensure_ascii=False)
    return f"""# {content.name}

A masked language model trained with mlm_dist {version}.

```python
from transformers import pipeline

fill = pipeline("fill-mask", model={location})
print(fill("The {content.mask_token} is missing."))
```

To fine-tune it, load its encoder with `AutoModelForSequenceClassification.from_pretrained({location})` or another
class of this kind. `SentenceTransformer({location})` loads it with mean pooling.

## Validation

{validation_table(content.record, content.step)}

## Training

{_facts(content)}

To train it again, install mlm_dist {version}, save this config as `config.yaml` and run:

```bash
mlm-dist train --config config.yaml
```

```yaml
{content.config_yaml}```
"""


def validation_table(record: Record, step: int) -> str:
    """Loss, perplexity and accuracy before training and at a step, as Markdown."""
    before, after = record.validation.get(0), record.validation.get(step)
    if after is None:
        return "There was no validation at this step."
    rows = ["| | loss, nats per masked token | perplexity | accuracy |", "|---|---|---|---|"]
    unigram_loss = record.start.get("unigram_loss")
    if unigram_loss is not None:
        rows.append(f"| unigram baseline | {unigram_loss:.4f} | | |")
    for title, line in (("before training", before), (f"step {step:,}", after)):
        if line is not None:
            loss, perplexity = _number(line["loss"]), _number(line["perplexity"])
            rows.append(f"| {title} | {loss} | {perplexity} | {line['accuracy']:.1%} |")
    text = f"Measured on {plural(after['masked_tokens'], 'masked token')} of held-out documents."
    if before is not None and "second_loss" in before and "second_loss" in after:
        source = record.start.get("second_source", "the second source")
        losses = f"{_number(before['second_loss'])} before training, {_number(after['second_loss'])} after"
        text += f"\nValidation loss on {_cell(str(source))}, which is not trained on: {losses}."
    return "\n".join(rows) + f"\n\n{text}"


def _facts(content: CardContent) -> str:
    manifest = content.manifest
    documents, tokens = manifest["documents"], manifest["tokens"]
    facts = {
        "weights": f"{content.dtype}, step {content.step:,}",
        "documents": summary.locations(manifest),
        **run_facts(content.record),
        "corpus": f"digest {manifest['digest']}: {plural(documents['train'], 'training document')}, "
        f"{plural(documents['validation'], 'validation document')}, {plural(tokens['kept'], 'token')}, "
        f"{summary.percent_unknown(manifest)} of them unknown to the tokenizer",
    }
    return "| | |\n|---|---|\n" + "\n".join(f"| {_cell(name)} | {_cell(text)} |" for name, text in facts.items())


def _number(value: float | None) -> str:
    if value is None:
        return "not finite"
    return f"{value:.4f}" if 0.001 <= abs(value) < 1e6 else f"{value:.3g}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
