"""Operators and graph breaks of a step on a GPU, counted without one.

    python benchmarks/operators.py

Weights and rows are meta tensors, which have shapes and no values; products are cast as CUDA's autocast to bf16 casts
them, and attention takes the kernels that CUDA has. A step is the forward and backward pass of one micro-batch of
packed rows, without the optimizer. Views and allocations are not operators. Graphs and graph breaks are those of
`model.compile: regional`; the loss is not compiled here.
"""

from __future__ import annotations

import argparse
import collections
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from common import console
from rich.table import Table
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mlm_dist.model import precision
from mlm_dist.model.compilation import compile_forward
from mlm_dist.model.loss import summed_cross_entropy
from mlm_dist.model.masked_lm import MaskedLanguageModel

# {name: (model type, layers, tokens per row, rows)}. Operators depend on the depth, not on the width: widths are small.
MODELS = {
    "BERT-base": ("bert", 12, 512, 4),
    "ModernBERT-base": ("modernbert", 22, 1024, 2),
    "ModernBERT-large": ("modernbert", 28, 1024, 2),
}
WIDTHS = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 1, "vocab_size": 2048, "pad_token_id": 0}
CHUNK, PREDICTED = 128, 0.15
_FREE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "lift_fresh"}


class Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operators that run inside, but for views and allocations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count, self.names = 0, collections.Counter[str]()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not (operator.is_view or _name(operator) in _FREE):
            self.count += 1
            self.names[_name(operator)] += 1
        return operator(*args, **(kwargs or {}))


def _name(operator: Any) -> str:
    return str(operator._schema.name).split("::")[1].removesuffix("_")


@contextmanager
def as_on_cuda() -> Iterator[None]:
    """Products in bf16, norms in fp32, and the attention kernels that CUDA chooses; restored afterwards."""
    linear, layer_norm, sdpa = F.linear, F.layer_norm, F.scaled_dot_product_attention
    working_dtype = precision.working_dtype
    copies: dict[int, torch.Tensor] = {}

    def low(tensor: Any) -> Any:
        if tensor is None or tensor.dtype != torch.float32:
            return tensor
        if torch.compiler.is_compiling() or not isinstance(tensor, nn.Parameter):
            return tensor.to(torch.bfloat16)
        if id(tensor) not in copies:  # autocast keeps copies of weights
            copies[id(tensor)] = tensor.to(torch.bfloat16)
        return copies[id(tensor)]

    def attention(query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, **given: Any) -> Any:
        scale = given.get("scale")
        if attn_mask is None:
            flash = torch.ops.aten._scaled_dot_product_flash_attention
            return flash(query, key, value, dropout_p, False, False, scale=scale)[0]
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(~attn_mask, -torch.inf)
        bias = attn_mask.expand(*query.shape[:2], *attn_mask.shape[-2:])
        efficient = torch.ops.aten._scaled_dot_product_efficient_attention
        return efficient(query, key, value, bias, True, dropout_p, False, scale=scale)[0]

    F.linear = lambda input, weight, bias=None: linear(low(input), low(weight), low(bias))
    F.layer_norm = lambda input, *rest, **named: layer_norm(input.float(), *rest, **named)
    F.scaled_dot_product_attention = attention  # type: ignore[assignment]
    precision.working_dtype = lambda kind, dtype: torch.bfloat16
    try:
        yield
    finally:
        F.linear, F.layer_norm, F.scaled_dot_product_attention = linear, layer_norm, sdpa
        precision.working_dtype = working_dtype


def model_of(name: str) -> tuple[MaskedLanguageModel, tuple[torch.Tensor | None, ...]]:
    """A model of meta tensors, and the arguments of its loss."""
    from transformers import CONFIG_MAPPING, AutoModelForMaskedLM

    kind, layers, length, rows = MODELS[name]
    ids = {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    config = CONFIG_MAPPING[kind](**WIDTHS, **(ids if kind == "modernbert" else {}), num_hidden_layers=layers)
    model = AutoModelForMaskedLM.from_config(config, dtype=torch.float32)
    with torch.library._scoped_library("aten", "IMPL") as library:
        # A model of a machine with a kernel; the CPU's is never called.
        library.impl("_flash_attention_forward", lambda *_, **__: None, "CPU")
        core = MaskedLanguageModel(model, packed=True).to("meta")

    def meta(size: Any, dtype: torch.dtype = torch.int64) -> torch.Tensor:
        return torch.empty(size, dtype=dtype, device="meta")

    tokens = rows * length
    predicted, chunks = int(tokens * PREDICTED), tokens // CHUNK
    input_ids, starts = meta((rows, length)), meta(chunks + 1, torch.int32)
    return core, (input_ids, None, meta(predicted), meta(predicted), starts)


def eager(name: str) -> dict[str, Any]:
    """Operators of a step that is not compiled."""
    core, inputs = model_of(name)
    with as_on_cuda(), Operators() as operators:
        core.loss(*inputs).loss_sum.backward()  # type: ignore[arg-type,no-untyped-call]
    masks = operators.names["masked_fill"]
    return {"operators": operators.count, "attention with a mask": _attention_with_mask(operators), "masks": masks}


def _attention_with_mask(operators: Operators) -> int:
    return sum(count for name, count in operators.names.items() if "efficient_attention" in name)


def compiled(name: str) -> dict[str, Any]:
    """Graphs and graph breaks of a step with `model.compile: regional`."""
    import torch._dynamo as dynamo

    core, inputs = model_of(name)
    dynamo.reset()
    dynamo.utils.counters.clear()
    real = torch.compile
    torch.compile = lambda function, **given: real(function, backend="aot_eager", **given)  # type: ignore[assignment]
    try:
        with as_on_cuda():
            stats = compile_forward(core, "regional")
            core.cross_entropy = summed_cross_entropy  # torch 2.13 loses the gradient of a compiled one on meta tensors
            core.loss(*inputs).loss_sum.backward()  # type: ignore[arg-type,no-untyped-call]
            graphs = stats.num_graphs
            core.loss(*inputs).loss_sum.backward()  # type: ignore[arg-type,no-untyped-call]
            assert stats.num_graphs == graphs, "a second step compiled something"
            stats.close()
    finally:
        torch.compile = real
    return {"graphs": graphs, "graph breaks": sum(dynamo.utils.counters["graph_break"].values())}


def main() -> None:
    """Print the figures of every model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    arguments = parser.parse_args()
    results = {name: {"eager": eager(name), "regional": compiled(name)} for name in arguments.models}
    if arguments.json:
        console.print_json(json.dumps(results))
        return
    table = Table("model", "operators", "attention with a mask", "graphs", "graph breaks")
    for name, result in results.items():
        first, second = result["eager"], result["regional"]
        values = first["operators"], first["attention with a mask"], second["graphs"], second["graph breaks"]
        table.add_row(name, *map(str, values))
    console.print(table)


if __name__ == "__main__":
    main()
