"""Training gives the losses of transformers.Trainer with the same settings: the notebook's recipe at another size."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import launching
import numpy as np
import pytest
import torch

STEPS, EVERY, BATCH = 160, 20, 16
SEEDS = (1, 2, 3)
SIGMAS = 4.5
NOTEBOOK = (
    *("--optim.lr=1e-3", "--optim.weight_decay=0", "--optim.betas=[0.9,0.999]", "--optim.eps=1e-8"),
    *("--optim.max_grad_norm=1", "--optim.warmup=0", "--optim.schedule=linear", f"--batch.global_size={BATCH}"),
    "--rows.mode=chunk",
)
NO_DROPOUT = '--model.overrides={"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}'


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory, prepared_cache: Path) -> tuple[str, ...]:
    """Flags for both: the rows, random initial weights, dropout on, and the recipe."""
    from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

    start = tmp_path_factory.mktemp("start")
    found = next(path for path in prepared_cache.iterdir() if (path / "tokenizer").is_dir())
    vocab_size = len(AutoTokenizer.from_pretrained(found / "tokenizer"))
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256}
    BertForMaskedLM(BertConfig(vocab_size=vocab_size, max_position_embeddings=64, **shape)).save_pretrained(start)
    return (f"--corpus.cache_dir={prepared_cache}", *launching.TINY, f"--model.name_or_path={start}", *NOTEBOOK)


def ours(run: Path, *flags: str) -> dict[str, list[float]]:
    """The losses of every step, and the validation losses, of `train.py`."""
    ended = launching.python("train.py", *flags, f"--output_dir={run}", "--logging.every=1")
    assert ended.returncode == 0, ended.output
    train, validation = (launching.metrics(run, kind) for kind in ("train", "validation"))
    return {
        "losses": [line["loss"] for line in train],
        "validation_losses": [line["loss"] for line in validation if line["step"]],
    }


def theirs(out: Path, seeds: str, *flags: str) -> Any:
    """The same of Trainer, for each seed."""
    ended = launching.run([sys.executable, str(Path(__file__).with_name("trainer_run.py")), str(out), seeds, *flags])
    assert ended.returncode == 0, ended.output
    return json.loads(out.read_text("utf-8"))


@pytest.mark.slow
def test_the_same_batches_give_the_same_curve(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """Four micro-batches per step, weighted by their tokens, and Trainer with all rows at once; no dropout."""
    flags += (NO_DROPOUT, "--optim.duration=60 steps", "--validation.every=20")
    found = ours(tmp_path / "run", *flags, "--batch.micro_size=4")
    (expected,) = theirs(tmp_path / "theirs.json", "ours", *flags)
    assert len(expected["losses"]) == 60 and len(expected["validation_losses"]) == 3
    assert found["losses"] == pytest.approx(expected["losses"], abs=1e-5)
    assert found["validation_losses"] == pytest.approx(expected["validation_losses"], abs=1e-5)
    assert found["validation_losses"][-1] < found["losses"][0] - 0.5, "nothing was learned"


@pytest.mark.slow
def test_curves_agree_within_the_noise_of_seeds(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """With dropout on, and each with its own order and masks: means over three seeds of each.

    The noise is how much Trainer's seeds differ, on average along the curve; a mean of three has 1 / sqrt(3) of it, and
    the difference of two such means sqrt(2 / 3).
    """
    flags += (f"--optim.duration={STEPS} steps", f"--validation.every={EVERY}")
    mine = [ours(tmp_path / str(seed), *flags, f"--seed={seed}") for seed in SEEDS]
    other = theirs(tmp_path / "theirs.json", ",".join(map(str, SEEDS)), *flags)
    for curve, sharpness in (("losses", 0.05), ("validation_losses", 0.01)):
        found, expected = (
            np.array([np.reshape(run[curve], (STEPS // EVERY, -1)).mean(1) for run in runs]) for runs in (mine, other)
        )  # [seeds, chunks of EVERY steps]
        noise = np.sqrt(expected.var(0, ddof=1).mean() * 2 / len(SEEDS))
        assert noise < sharpness, "too noisy to see a difference"
        assert np.abs(found.mean(0) - expected.mean(0)).max() < SIGMAS * noise, curve
        assert expected[:, 0].mean() - expected[:, -1].mean() > 2 * SIGMAS * noise, "nothing was learned"
