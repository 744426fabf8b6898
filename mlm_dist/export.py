"""Write a trained model so that `from_pretrained` and `pipeline("fill-mask")` load it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from mlm_dist import __version__
from mlm_dist.config import Config, to_yaml
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.modeling.build import is_architecture
from mlm_dist.modeling.masked_head import MaskedLanguageModel
from mlm_dist.training import distributed


def export(
    accelerator: Accelerator,
    core: MaskedLanguageModel,
    corpus: PreparedCorpus,
    folder: Path,
    config: Config,
    facts: Mapping[str, object],
) -> None:
    """Write weights in fp32, tokenizer and model card, whole or not at all; a collective.

    Args:
        accelerator: The processes.
        core: The model as it was before it was prepared.
        corpus: What it was trained on; its tokenizer goes with the model.
        folder: Where they go; what was there is replaced.
        config: The run.
        facts: What the model card says in its table.
    """
    values = {}
    for name, value in distributed.full_parameters(accelerator, core):
        if accelerator.is_main_process:
            values[name.removeprefix("model.")] = value

    def write() -> None:
        model = _assembled(core.model, values)
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            model.save_pretrained(str(temporary))
            corpus.tokenizer.save_pretrained(str(temporary))
            (temporary / "README.md").write_text(_card(config, model, corpus, facts), "utf-8")
            temporary.chmod(0o755)
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    distributed.on_main(accelerator, write)


def _assembled(trained: Any, values: dict[str, torch.Tensor]) -> Any:
    """A fresh model of the same configuration with these parameters, its tied weights tied again."""
    model = type(trained)._from_config(trained.config, dtype=torch.float32)
    state = {name: buffer.detach().cpu() for name, buffer in trained.named_buffers()} | values
    missing, _ = model.load_state_dict(state, strict=False)
    model.tie_weights()
    # Tied weights have one parameter and several names; anything else that is missing is a fault of ours.
    named = dict(model.named_parameters())
    assert not set(missing) & set(named), f"not exported: {sorted(set(missing) & set(named))}"
    return model


def _card(config: Config, model: Any, corpus: PreparedCorpus, facts: Mapping[str, object]) -> str:
    from huggingface_hub import ModelCardData

    base = None if is_architecture(config.model.name_or_path) else config.model.name_or_path
    on_hub = base is not None and not os.path.isdir(os.path.expanduser(base))
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="fill-mask",
        base_model=base if on_hub else None,
        tags=["fill-mask", model.config.model_type, "mlm_dist"],
    )
    source = corpus.manifest["source"]
    about = {**facts, "documents": f"{source['location']} {source['commit'] or ''}".strip()}
    rows = "\n".join(f"| {name.replace('_', ' ')} | {value} |" for name, value in about.items())
    return (
        f"---\n{data.to_yaml()}\n---\n\n"
        f"# {Path(config.output_dir).resolve().name}\n\n"
        f"A masked-language model trained with mlm_dist {__version__}.\n\n"
        f"| | |\n|---|---|\n{rows}\n\n"
        "```python\nfrom transformers import pipeline\n\n"
        f'fill = pipeline("fill-mask", model="PATH")\nfill("The {corpus.tokenizer.mask_token} is missing.")\n```\n\n'
        f"The run's configuration:\n\n```yaml\n{to_yaml(config)}```\n"
    )
