"""The model card: what was trained on what, how well it does on held-out documents, and how to do it again."""

from __future__ import annotations

import os
from typing import Any

from mlm_dist import __version__
from mlm_dist.config import Config, to_yaml
from mlm_dist.model.architecture import is_architecture
from mlm_dist.pages.record import Record

METRICS = {"loss": "Held-out loss (nats per masked token)", "perplexity": "Perplexity", "accuracy": "Accuracy"}


def card(
    name: str, config: Config, model: Any, mask_token: str, manifest: dict[str, Any], record: Record, step: int
) -> Any:
    """A `huggingface_hub.ModelCard`.

    Args:
        name: What the model is called.
        config: The run, without credentials.
        model: The model that is exported.
        mask_token: Its tokenizer's.
        manifest: What its corpus was.
        record: What the run wrote down.
        step: The update the weights are of.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    source = manifest["source"]
    held_out = record.validation.get(step)
    results = [
        EvalResult(
            task_type="fill-mask",
            task_name="Masked language modelling",
            dataset_type=f"mlm_dist/{manifest['digest']}",
            dataset_name=f"held-out documents of {source['location']}",
            dataset_split="validation",
            dataset_revision=source["commit"],
            metric_type=metric,
            metric_name=title,
            metric_value=held_out[metric],
        )
        for metric, title in METRICS.items()
        if held_out is not None and held_out[metric] is not None
    ]
    base = None if is_architecture(config.model.name_or_path) else config.model.name_or_path
    on_hub = base is not None and not os.path.isdir(os.path.expanduser(base)) and not config.model.from_scratch
    data = ModelCardData(
        model_name=name,
        library_name="transformers",
        pipeline_tag="fill-mask",
        base_model=base if on_hub else None,
        datasets=[source["location"]] if source["kind"] == "hub" else None,
        tags=["fill-mask", model.config.model_type, "mlm_dist"],
        eval_results=results or None,
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_text(name, config, mask_token, manifest, record, step)}")


def _text(name: str, config: Config, mask_token: str, manifest: dict[str, Any], record: Record, step: int) -> str:
    source, documents, tokens = manifest["source"], manifest["documents"], manifest["tokens"]
    facts = {key: value for key, value in record.start.items() if key not in ("kind", "resumed_from", "version")}
    about = {
        "weights": f"{config.export.dtype}, after update {step:,}",
        "documents": f"{source['location']} {'at ' + source['commit'] if source['commit'] else ''}".strip(),
        "corpus": f"digest {manifest['digest']}: {documents['train']:,} documents to train on, "
        f"{documents['validation']:,} held out, {tokens['kept']:,} tokens",
        **{key: value for key, value in facts.items() if key != "corpus"},
    }
    return f"""# {name}

A masked-language model trained with mlm_dist {record.start.get("version", __version__)}.

```python
from transformers import pipeline

fill = pipeline("fill-mask", model="PATH")
fill("The {mask_token} is missing.")
```

It is a starting point for fine-tuning: `AutoModelForSequenceClassification.from_pretrained("PATH")` and its like take
its encoder, and so does `SentenceTransformer("PATH")`, which averages over the tokens.

## On held-out documents

{_held_out(record, step)}

## How it was trained

{_table({key.replace("_", " "): _shown(value) for key, value in about.items()})}

To do it again, save the configuration below as `config.yaml`:

```bash
pip install mlm_dist=={record.start.get("version", __version__)}
accelerate launch mlm_dist/train.py --config config.yaml
```

```yaml
{to_yaml(config)}```
"""


def _held_out(record: Record, step: int) -> str:
    before, after = record.validation.get(0), record.validation.get(step)
    if after is None:
        return "These weights were not evaluated."
    rows = ["| | loss, nats per masked token | perplexity | accuracy |", "|---|---|---|---|"]
    unigram = record.start.get("unigram_loss")
    if unigram is not None:
        rows.append(f"| word frequencies alone | {unigram:.4f} | | |")
    for title, line in (("before training", before), (f"after update {step:,}", after)):
        if line is not None:
            loss, perplexity = (_shown(line[key]) for key in ("loss", "perplexity"))
            rows.append(f"| {title} | {loss} | {perplexity} | {line['accuracy']:.1%} |")
    said = f"Over {after['masked_tokens']:,} masked tokens of documents that were held out of training."
    if before is not None and "second_loss" in before and "second_loss" in after:
        losses = f"{_shown(before['second_loss'])} before training, {_shown(after['second_loss'])} after"
        said += f"\nOn {_shown(record.start.get('second_source'))}, which was not trained on: a loss of {losses}."
    return "\n".join(rows) + f"\n\n{said}"


def _table(rows: dict[str, str]) -> str:
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if 0.001 <= abs(value) < 1e6 else f"{value:.3g}"
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return "not finite" if value is None else text.replace("|", "\\|").replace("\n", " ")
