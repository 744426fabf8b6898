"""What an architecture can do: a tiny model is planned, trained, resumed, exported and loaded again."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from making import made_up_text
from specs import spec_of
from tiny import LENGTH, overrides

from mlm_dist import Callback, Config, train
from mlm_dist.checkpoint import find
from mlm_dist.checkpoint.weights import SavedWeights
from mlm_dist.config import parse
from mlm_dist.errors import UserError
from mlm_dist.model import trial
from mlm_dist.run_dir import RunDir
from mlm_dist.trained_model import load_checkpoint, load_exported

STEPS, STOPPED = 3, 2  # steps of a run, and the step after which it is interrupted
COLUMNS = ("architecture", "trains", "packs by default", "masked head", "exports", "reason if not")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A row of the table in docs/architectures.md.

    Args:
        name: `model_type` of the architecture.
        trains: Whether it is trained, and a resumed run ends with the same weights as one that was not interrupted.
        packs: Whether rows hold several chunks by default.
        masked_head: Whether logits are computed at masked positions only.
        exports: Whether the exported model loads and gives the logits of the trained one.
        reason: Why it does not do one of them, in the words of the error message.
    """

    name: str
    trains: bool = False
    packs: bool = False
    masked_head: bool = False
    exports: bool = False
    reason: str = ""

    def row(self) -> str:
        """A line of Markdown."""
        flags = ("yes" if one else "no" for one in (self.trains, self.packs, self.masked_head, self.exports))
        return "| " + " | ".join((f"`{self.name}`", *flags, self.reason.replace("|", "\\|"))) + " |"


def documents(folder: Path) -> Path:
    """A folder of made-up documents of different lengths, several of which fit in a row."""
    source = folder / "documents"
    source.mkdir(exist_ok=True)
    for i in range(24):
        (source / f"{i:02d}.txt").write_text(made_up_text(i, 20 + 5 * i), "utf-8")
    return source


def walk(name: str, source: Path, folder: Path) -> Outcome:
    """Walk one architecture.

    Args:
        name: Its `model_type`.
        source: The documents.
        folder: For its runs; the corpus and the tokenizer are cached beside the documents.
    """

    def config(run: str, mode: str = "null") -> Config:
        return parse(
            [
                *(f"--output_dir={folder / run}", f"--corpus.source={source}"),
                *(f"--corpus.cache_dir={source.parent / 'cache'}", "--corpus.min_chars=1"),
                *("--corpus.validation_fraction=0.2", "--tokenizer.train_vocab_size=300", "--export.verify=false"),
                *(f"--rows.max_length={LENGTH}", f"--rows.mode={mode}", "--batch.global_size=4"),
                f"--optim.duration={STEPS} steps",
                *(f"--checkpoint.every={STOPPED}", "--logging.every=1", f"--model.name_or_path={name}"),
                f"--model.overrides={json.dumps(overrides(name))}",
            ]
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries
        whole, parts = config("whole"), config("parts")
        outcome = Outcome(name)
        try:
            packs = spec_of(whole).corpus.rows.mode == "pack"
            outcome = dataclasses.replace(
                outcome, packs=packs, reason="" if packs else _why_not(config("packed", "pack"))
            )
            train.run(whole)
            try:
                train.run(parts, [_Interruption()])
            except _Interrupted:
                train.run(parts)
        except UserError as error:
            return dataclasses.replace(outcome, packs=False, reason=str(error))
        same = all(torch.equal(one, other) for one, other in zip(_weights(whole), _weights(parts), strict=True))
        assert same, f"{name}: a resumed run ends with other weights"
        outcome = dataclasses.replace(outcome, trains=True, masked_head=_has_masked_head(whole))
        return dataclasses.replace(outcome, exports=_exports(whole))


def _why_not(config: Config) -> str:
    """Why a run is refused; empty if it is not."""
    try:
        spec_of(config)
    except UserError as error:
        return str(error)
    return ""


class _Interrupted(Exception):
    """Raised by the callback."""


class _Interruption(Callback):
    def on_step(self, step: int, metrics: Mapping[str, Any] | None) -> None:
        if step == STEPS:
            raise _Interrupted


def _trained(config: Config) -> Any:
    """The model of a run's last checkpoint."""
    run_dir = RunDir(Path(config.output_dir))
    model, _, step = load_checkpoint(spec_of(config), SavedWeights((find.require_newest(run_dir.checkpoints),)))
    assert step == STEPS
    return model.eval()


def _weights(config: Config) -> list[torch.Tensor]:
    return [parameter.detach() for parameter in _trained(config).parameters()]


def _has_masked_head(config: Config) -> bool:
    start = json.loads((Path(config.output_dir) / "metrics.jsonl").read_text("utf-8").splitlines()[0])
    return bool(start["masked_head"])


def _exports(config: Config) -> bool:
    """Whether the exported model, loaded by transformers, gives the logits of the last checkpoint."""
    model, tokenizer = load_exported(RunDir(Path(config.output_dir)).model)
    assert tokenizer.mask_token is not None and len(tokenizer) <= model.config.vocab_size
    input_ids = trial.tokens(model.config, 2, LENGTH)
    trained = _trained(config)
    # A trained model has the attention of this package.
    return trial.close(_logits(model.eval(), input_ids), _logits(trained, input_ids))


@torch.no_grad()
def _logits(model: Any, input_ids: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=input_ids).logits
    return logits
