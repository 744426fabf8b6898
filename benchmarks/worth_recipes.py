"""The recipes that worth.py compares, each a list of flags for the train job."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from mlm_dist import train as train_job
from mlm_dist.config import SourceConfig, parse
from mlm_dist.corpora import load_or_prepare
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.engine.launch import Launch
from mlm_dist.resolve import resolve
from mlm_dist.run_dir import RunDir
from mlm_dist.trained_model import load_exported

START = "start"
_MLM = ["--batch.global_size=64", "--optim.lr=5e-5", "--optim.warmup=0.1", "--optim.schedule=linear"]
_PHASES = "--phases=[{name: language, duration: %s}, {name: search, duration: 3 epochs, objective: contrastive}]"
RECIPES: dict[str, list[str] | None] = {
    START: None,
    "embed": ["--preset=search"],
    "embed 1 epoch": ["--preset=search", "--optim.duration=1 epochs"],
    "MLM 0.25M tokens": [*_MLM, "--optim.duration=250k tokens"],
    "MLM 1M tokens": [*_MLM, "--optim.duration=1M tokens"],
    "MLM then embed": ["--preset=search_phases", _PHASES % "250k tokens"],
    "joint": ["--preset=search", "--objective=contrastive_masked_lm"],
    "domain tokens and embed": ["--preset=search", "--tokenizer.add_domain_tokens=500"],
}
PATTERNS = ",".join([*SourceConfig().patterns, "**/*.adoc"])
SHARED = [
    f"--corpus.patterns={PATTERNS}",
    *("--rows.max_length=128", "--corpus.validation_fraction=0.25", "--validation.every=null"),
    *("--validation.max_rows=64", "--export.verify=false", "--tracking.trackers=[]", "--checkpoint.resume=never"),
]


def train(recipe: str, source: str, folder: Path, start: str, seed: int) -> tuple[Any, PreparedCorpus]:
    """Train a recipe; returns its model and the corpus it is judged on.

    Args:
        recipe: One of `RECIPES`.
        source: The corpus, as corpus.source.
        folder: Runs and prepared corpora go to folders in it.
        start: The folder of the encoder to begin from, which is the model of the recipe `START`.
        seed: The seed.
    """
    run, flags = folder / "run", RECIPES[recipe]
    shutil.rmtree(run, ignore_errors=True)
    shared = [f"--corpus.source={source}", f"--corpus.cache_dir={folder / 'cache'}", f"--model.name_or_path={start}"]
    config = parse([*(flags or []), *SHARED, *shared, f"--seed={seed}", f"--output_dir={run}"])
    if flags is not None:
        train_job.run(config)
    model = Path(start) if flags is None else RunDir(run).model
    return load_exported(model)[0], load_or_prepare(resolve(config, Launch.read())).main
