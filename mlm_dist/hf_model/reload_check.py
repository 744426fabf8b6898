"""Check that an exported model loads and computes the same: in a new process that shares nothing with this run.

`ReloadCheck` runs this file as a program. That process imports transformers at once, waits for the name of a folder,
and loads the model in it. It also exports the ONNX graph, so that the traced model is a plain one.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from mlm_dist.errors import ModelError
from mlm_dist.hf_model import onnx_graph
from mlm_dist.hf_model.onnx_graph import Output
from mlm_dist.model.inference import evaluating

TOLERANCE = 1e-4  # of logits, as a fraction of the largest one, for the same weights in the same precision
LENGTH = 8  # tokens of the test batch; every model has that many positions
TEXT = "The vault protects 3 keys, café ☃."  # tokenized by both processes
LAUNCHER_VARIABLES = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
LAUNCHER_PREFIXES = ("ACCELERATE_", "TORCHELASTIC_", "FSDP_")


def check(folder: Path, model: Any, tokenizer: Any, graph: Output | None = None) -> list[str]:
    """Load an exported model in a new process and compare it with the one in memory, see `ReloadCheck`."""
    with ReloadCheck() as process:
        process.begin(folder, model, tokenizer, graph)
        return process.result()


class ReloadCheck:
    """The process that loads an exported model; as a context it ends with the context."""

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="mlm_dist-reload-")
        self._folder = Path(self._temporary.name)
        self._request: dict[str, Any] = {}
        with open(self._folder / "stdout", "wb") as stdout, open(self._folder / "stderr", "wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                cwd=self._folder,
                env=_environment(),
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=stderr,
                text=True,
                start_new_session=True,  # a Ctrl-C is for the run, which ends this process in order
            )

    def begin(self, folder: Path, model: Any, tokenizer: Any, graph: Output | None = None) -> None:
        """Let the process load a folder, without waiting for it.

        Args:
            folder: The exported model.
            model: The model in memory, on the CPU, in fp32 with the weights as they were written.
            tokenizer: Its tokenizer.
            graph: What the ONNX graph computes that the process also writes into the folder; None for no graph.
        """
        from safetensors.torch import save_file

        input_ids = (torch.arange(LENGTH) * 7 + 5)[None] % min(model.config.vocab_size, 64)
        input_ids[0, LENGTH // 2] = tokenizer.mask_token_id
        save_file({"input_ids": input_ids, "logits": _logits(model, input_ids)}, self._folder / "expected.safetensors")
        self._request = {
            "folder": str(folder.absolute()),
            "graph": graph,
            "tied": _is_tied(model),
            "weights": digests(model),
            "ids": tokenizer(TEXT)["input_ids"],
            "inputs": list(tokenizer.model_input_names),
        }
        (self._folder / "request.json").write_text(json.dumps(self._request), "utf-8")
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{self._folder}\n")
            self._process.stdin.close()
        except OSError:  # it has ended; `result` says why
            return

    def result(self) -> list[str]:
        """The five most likely fills of a mask, as the process computed them; waits for its end.

        Raises:
            ModelError: The process was ended, the model does not load, its tied weights are not tied, a weight or the
                tokenizer differs, it does not fill masks, or its logits differ.
        """
        if (code := self._process.wait()) < 0:
            raise ModelError(
                f"the process that loads the exported model was ended by signal {-code}, perhaps for lack of memory; "
                "--export.verify false skips this check"
            )
        if code:
            stderr = (self._folder / "stderr").read_text("utf-8", "replace")
            lines = stderr.strip().splitlines() or [f"exit code {code}"]
            raise _failed(f"it does not load ({lines[-1]})")
        result = json.loads((self._folder / "stdout").read_text("utf-8").splitlines()[-1])
        if result["tied"] != self._request["tied"]:
            raise _failed("its output weights are not tied to its embeddings")
        if not result["difference"] <= TOLERANCE:  # NaN fails, too
            raise _failed(f"its logits differ by {result['difference']:.3g}; export.dtype may be too narrow")
        if changed := result["changed"]:
            raise _failed(f"{len(changed)} weights differ, such as {changed[0]}")
        if result["ids"] != self._request["ids"] or result["inputs"] != self._request["inputs"]:
            raise _failed("its tokenizer splits text in another way")
        if result["onnx"] is not None:
            raise ModelError(f"export.format: {result['onnx']}; set it to safetensors")
        fills: list[str] = result["fills"]
        if not fills:
            raise _failed("it does not fill masks")
        return fills

    def __enter__(self) -> ReloadCheck:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        self._temporary.cleanup()


def digests(model: Any) -> dict[str, str]:
    """{name: hash} of every tensor in a model's state, tied ones under each of their names."""
    found = {}
    for name, tensor in model.state_dict().items():
        content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        found[name] = hashlib.blake2b(content, digest_size=8).hexdigest()
    return found


def main() -> None:
    """Load the model of the folder that the standard input names, and write the result as one line of JSON."""
    from safetensors.torch import load_file
    from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

    folder = Path(sys.stdin.readline().strip())
    if not folder.name:
        return  # the run ended before it had a model
    request, batch = (
        json.loads((folder / "request.json").read_text("utf-8")),
        load_file(folder / "expected.safetensors"),
    )
    exported = request["folder"]
    model = AutoModelForMaskedLM.from_pretrained(exported, dtype=torch.float32, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(exported, trust_remote_code=False)
    fill = pipeline("fill-mask", model=model, tokenizer=tokenizer, device="cpu")
    fills = [answer["token_str"] for answer in fill(f"The {tokenizer.mask_token} is missing.")]
    expected_logits = batch["logits"]
    difference = (_logits(model, batch["input_ids"]) - expected_logits).abs().max()
    difference = difference / expected_logits.abs().max().clamp(min=1.0)
    found, wanted = digests(model), request["weights"]
    result = {
        "tied": _is_tied(model),
        "difference": float(difference),
        "changed": sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)),
        "ids": tokenizer(TEXT)["input_ids"],
        "inputs": list(tokenizer.model_input_names),
        "fills": fills,
        "onnx": None,
    }
    if request["graph"] is not None:
        result["onnx"] = onnx_graph.write(model, tokenizer, Path(exported), request["graph"])
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
        f"the exported model is not the one in memory: {cause}. The checkpoints are intact; --export.verify false "
        "skips this check"
    )


if __name__ == "__main__":
    main()
