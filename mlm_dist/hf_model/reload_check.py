"""Check that an exported model loads and computes the same: in a new process that shares nothing with this run.

`check` runs this file as a program. That process imports transformers and reads the exported folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from mlm_dist.errors import ModelError
from mlm_dist.model.inference import evaluating

TOLERANCE = 1e-4  # of logits, as a fraction of the largest one, for the same weights in the same precision
LENGTH = 8  # tokens of the test batch; every model has that many positions
LAUNCHER_VARIABLES = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
LAUNCHER_PREFIXES = ("ACCELERATE_", "TORCHELASTIC_", "FSDP_")


def check(folder: Path, model: Any, tokenizer: Any) -> list[str]:
    """Load an exported model in a new process and compare it with the one in memory.

    Args:
        folder: The exported model.
        model: The model in memory, on the CPU, with the weights as they were written.
        tokenizer: Its tokenizer.

    Returns:
        The five most likely fills of a mask, as the new process computed them.

    Raises:
        ModelError: The model does not load, its tied weights are not tied, it does not fill masks, or its logits
            differ.
    """
    from safetensors.torch import save_file

    input_ids = (torch.arange(LENGTH) * 7 + 5)[None] % min(model.config.vocab_size, 64)
    input_ids[0, LENGTH // 2] = tokenizer.mask_token_id
    with tempfile.TemporaryDirectory() as temporary:
        expected = Path(temporary) / "expected.safetensors"
        save_file({"input_ids": input_ids, "logits": _logits(model, input_ids)}, expected)
        process = subprocess.run(
            [sys.executable, "-m", __name__, str(folder.absolute()), str(expected)],
            cwd=folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    if process.returncode:
        lines = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
        raise _failed(f"it does not load ({lines[-1]})")
    result = json.loads(process.stdout.splitlines()[-1])
    if result["tied"] != _is_tied(model):
        raise _failed("its output weights are not tied to its embeddings")
    if not result["difference"] <= TOLERANCE:  # NaN fails, too
        raise _failed(f"its logits differ by {result['difference']:.3g}; export.dtype may be too narrow")
    fills: list[str] = result["fills"]
    if not fills:
        raise _failed("it does not fill masks")
    return fills


def main(folder: str, expected: str) -> None:
    """Load the model of a folder, and write the result as one line of JSON to the standard output."""
    from safetensors.torch import load_file
    from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

    batch = load_file(expected)
    model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    fill = pipeline("fill-mask", model=model, tokenizer=tokenizer, device="cpu")
    fills = [answer["token_str"] for answer in fill(f"The {tokenizer.mask_token} is missing.")]
    expected_logits = batch["logits"]
    difference = (_logits(model, batch["input_ids"]) - expected_logits).abs().max()
    difference = difference / expected_logits.abs().max().clamp(min=1.0)
    result = {"tied": _is_tied(model), "difference": float(difference), "fills": fills}
    sys.stdout.write(json.dumps(result) + "\n")


def _logits(model: Any, input_ids: torch.Tensor) -> torch.Tensor:
    """[1, length, vocabulary], without dropout."""
    with evaluating(model):
        logits: torch.Tensor = model(input_ids=input_ids).logits
    return logits.contiguous()


def _is_tied(model: Any) -> bool:
    output = model.get_output_embeddings()
    return output is not None and output.weight is model.get_input_embeddings().weight


def _environment() -> dict[str, str]:
    """This environment without launcher variables, GPUs and network."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in LAUNCHER_VARIABLES and not name.startswith(LAUNCHER_PREFIXES)
    }
    return inherited | {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def _failed(cause: str) -> ModelError:
    return ModelError(
        f"the exported model is not the trained one: {cause}. The checkpoints are intact; --export.verify false skips "
        "this check"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
