"""The ONNX graph of an exported model, through torch's exporter, compared with the model by onnxruntime."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from pathlib import Path
from typing import Any, Literal

import torch

from mlm_dist.errors import ConfigError, reason

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-3  # of the output, as a fraction of its largest value; onnxruntime orders sums in another way
SHAPES = ((1, 7), (3, 12))  # rows and tokens that are compared; the graph is traced with another shape
FILE = "onnx/model.onnx"
Output = Literal["logits", "last_hidden_state"]  # of a search model, whose states are pooled, the second one


def check(format: str) -> None:
    """Refuse `export.format: onnx` without its packages, before any work is done.

    Raises:
        ConfigError: A package is missing.
    """
    missing = [name for name in PACKAGES if format == "onnx" and importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"export.format: onnx needs {', '.join(missing)}; install them with: pip install 'mlm_dist[onnx]'"
        )


def write(model: Any, tokenizer: Any, folder: Path, output: Output = "logits") -> str | None:
    """Write the ONNX graph of a plain transformers model into its folder, and compare both.

    Args:
        model: The model in fp32 on the CPU, as transformers loaded it.
        tokenizer: Its tokenizer.
        folder: The folder of the exported model.
        output: What the graph computes, also the name of its output.

    Returns:
        None if the graph computes the same for other numbers of rows and tokens than it was traced with, else
        what is wrong.
    """
    model.eval()
    names = [name for name in tokenizer.model_input_names if name in ("input_ids", "attention_mask", "token_type_ids")]
    path = folder / FILE
    path.parent.mkdir()
    rows, length = torch.export.Dim("rows", min=1), torch.export.Dim("length", min=2)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.disable(logging.WARNING)
            program = torch.onnx.export(
                _Function(model, names, output),
                tuple(_inputs(model, names, 2, 10).values()),
                input_names=names,
                output_names=[output],
                dynamic_shapes=(tuple({0: rows, 1: length} for _ in names),),
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # the exporter raises many kinds for what it cannot trace
        return f"torch cannot export {model.config.model_type} to ONNX ({reason(error)})"
    finally:
        logging.disable(logging.NOTSET)
    assert program is not None
    _remove_traces(program.model)
    program.save(str(path), external_data=_is_large(model))
    try:
        differences = [_difference(_Function(model, names, output), path, *shape) for shape in SHAPES]
    except Exception as error:
        return f"onnxruntime cannot run the graph of {model.config.model_type} ({reason(error)})"
    if not max(differences) <= TOLERANCE:
        return f"the ONNX graph of {model.config.model_type} gives other {output}, by {max(differences):.3g}"
    return None


class _Function(torch.nn.Module):
    """A model as a function from its inputs, in order, to one output."""

    def __init__(self, model: Any, names: list[str], output: Output) -> None:
        super().__init__()
        self.model, self.names, self.output = model, names, output

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        model = self.model if self.output == "logits" else self.model.base_model
        found: torch.Tensor = model(**dict(zip(self.names, inputs, strict=True)))[self.output]
        return found


def _inputs(model: Any, names: list[str], rows: int, length: int) -> dict[str, torch.Tensor]:
    """Arbitrary tokens; the second half of the last row is padding."""
    size = min(model.config.vocab_size, 64)
    mask = torch.ones(rows, length, dtype=torch.int64)
    if rows > 1:
        mask[-1, length // 2 :] = 0
    values = {
        "input_ids": (torch.arange(rows * length).reshape(rows, length) * 7 + 5) % size,
        "attention_mask": mask,
        "token_type_ids": torch.zeros(rows, length, dtype=torch.int64),
    }
    return {name: values[name] for name in names}


def _difference(function: _Function, path: Path, rows: int, length: int) -> float:
    """The largest difference at tokens that are not padding, as a fraction of the largest value."""
    import onnxruntime

    names, inputs = function.names, _inputs(function.model, function.names, rows, length)
    with torch.no_grad():
        expected = function(*inputs.values())
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    got = torch.from_numpy(session.run(None, {name: value.numpy() for name, value in inputs.items()})[0])
    kept = inputs["attention_mask"].bool() if "attention_mask" in names else torch.ones(rows, length, dtype=torch.bool)
    return float((got - expected)[kept].abs().max() / expected[kept].abs().max().clamp(min=1.0))


def _remove_traces(model: Any) -> None:
    """Remove what the exporter notes about where the code of the model was on this machine."""
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        for node in graph.all_nodes():
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()
        for value in (*graph.inputs, *graph.initializers.values()):
            value.metadata_props.clear()
        graph.metadata_props.clear()
    model.metadata_props.clear()


def _is_large(model: Any) -> bool:
    """Whether the weights do not fit into one file of at most 2 GiB, the limit of the format."""
    size: int = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return size > 1.8 * 2**30
