"""The proof that an exported model loads: load it where nothing of this run is in memory, and compare.

`check` starts this very file in a process of its own, which knows transformers and the folder, and nothing else.
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

TOLERANCE = 1e-4  # of logits, as a share of the largest, on the same weights in the same precision
LENGTH = 8  # tokens of the fixed batch: every model's positions suffice for them


def check(folder: Path, model: Any, tokenizer: Any) -> list[str]:
    """Load an exported model in a clean process and hold it against the one in memory.

    Args:
        folder: The exported model.
        model: The one in memory, with the weights as they were written, on the CPU.
        tokenizer: Its tokenizer.

    Returns:
        The five likeliest fills of a mask, as the clean process found them.

    Raises:
        ModelError: It does not load, its tied weights are not tied, it does not fill masks, or its logits differ.
    """
    from safetensors.torch import save_file

    input_ids = (torch.arange(LENGTH) * 7 + 5)[None] % min(model.config.vocab_size, 64)
    input_ids[0, LENGTH // 2] = tokenizer.mask_token_id
    with tempfile.TemporaryDirectory() as place:
        expected = Path(place) / "expected.safetensors"
        save_file({"input_ids": input_ids, "logits": _logits(model, input_ids)}, expected)
        command = [sys.executable, "-m", __name__, str(folder.absolute()), str(expected)]
        ended = subprocess.run(
            command,
            cwd=folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    if ended.returncode:
        lines = ended.stderr.strip().splitlines() or [f"it ended with {ended.returncode}"]
        raise _failed(lines[-1])
    found = json.loads(ended.stdout.splitlines()[-1])
    if found["tied"] != _is_tied(model):
        raise _failed("its output weights are not the ones of its embeddings, as they were")
    if not found["difference"] <= TOLERANCE:  # not a number is no agreement either
        raise _failed(f"its logits differ by {found['difference']:.3g}; export.dtype may be too narrow for its weights")
    answers: list[str] = found["answers"]
    if not answers:
        raise _failed("it fills no mask")
    return answers


def main(folder: str, expected: str) -> None:
    """Load the model of a folder, and print what came of it as JSON."""
    from safetensors.torch import load_file
    from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

    batch = load_file(expected)
    model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    fill = pipeline("fill-mask", model=model, tokenizer=tokenizer, device="cpu")
    answers = fill(f"The {tokenizer.mask_token} is missing.")
    expected_logits = batch["logits"]
    difference = (_logits(model, batch["input_ids"]) - expected_logits).abs().max()
    difference = difference / expected_logits.abs().max().clamp(min=1.0)
    tied = _is_tied(model)
    print(json.dumps({"tied": tied, "difference": float(difference), "answers": [one["token_str"] for one in answers]}))


def _logits(model: Any, input_ids: torch.Tensor) -> torch.Tensor:
    """[1, length, vocabulary], without dropout."""
    with evaluating(model):
        logits: torch.Tensor = model(input_ids=input_ids).logits
    return logits.contiguous()


def _is_tied(model: Any) -> bool:
    output = model.get_output_embeddings()
    return output is not None and output.weight is model.get_input_embeddings().weight


def _environment() -> dict[str, str]:
    """This environment without the launcher's words, the GPUs, and the network."""
    ours = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    plain = {
        name: value
        for name, value in os.environ.items()
        if name not in ours and not name.startswith(("ACCELERATE_", "TORCHELASTIC_", "FSDP_"))
    }
    return plain | {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def _failed(why: str) -> ModelError:
    return ModelError(
        f"the exported model is not what was trained: {why}. The checkpoints are intact; --export.verify false writes "
        "it without this check"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
