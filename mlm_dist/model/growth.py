"""Growing: a model that starts from the weights of a smaller one, or of one with another tokenizer."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from mlm_dist.errors import ModelError
from mlm_dist.model import positions
from mlm_dist.model.configuration import text_config
from mlm_dist.model.growable import heads, require_growable
from mlm_dist.model.tiling import copies, tiled

NOISE = 0.1  # share of random weights that are added to tiled ones, so that copies of a value do not stay equal
_GROUPS = {"Wqkv": 3, "Wi": 2}  # matrices in one of ModernBERT's

logger = logging.getLogger(__name__)


@torch.no_grad()
def grow(model: Any, source: Any, name: str, tokens: Sequence[Sequence[int]]) -> None:
    """Give a model with random weights those of another one of its architecture.

    Layer i of N starts from layer floor(i n / N) of n, as Gopher's did when it grew (Rae et al., 2021,
    https://arxiv.org/abs/2112.11446), or from the next one with the same kind of attention. Wider
    matrices, norms and embeddings are tiled, see `tiling`, with a tenth of the random weights added. Each token starts
    from the mean of some tokens of the source. Positions that the source lacks repeat its own (Beltagy et al., 2020,
    https://arxiv.org/abs/2004.05150, section 5). The result depends on both models alone. The log says what was done.

    Args:
        model: The model to grow, with random weights, in fp32 on the CPU.
        source: The model to start from.
        name: Its name, for messages.
        tokens: For each token of the model, ids of the source's tokens; none for the mean of all.

    Raises:
        ModelError: The models have different architectures, the model is narrower than the source, or its heads have
            another width.
    """
    growth = _Growth(model, source, name)
    counts = {"copied": 0, "tiled": 0, "left random": 0}
    per_token = _per_token(model, text_config(model.config).vocab_size)
    by_name = dict(source.named_parameters(remove_duplicate=False))
    for full_name, parameter in model.named_parameters():
        weight = growth.weight(full_name, by_name)
        if weight is None:
            counts["left random"] += 1
            continue
        random = parameter.clone()
        if id(parameter) in per_token:
            weight = _of_tokens(weight, tokens, len(parameter))
        found = growth.fitted(full_name, weight, parameter.shape)
        parameter.copy_(found)
        if growth.is_wider and parameter.dim() > 1:
            parameter.add_(random, alpha=NOISE)
        counts["tiled" if found.shape != weight.shape else "copied"] += 1
    growth.scale_head()
    done = ", ".join(f"{count:,} {verb}" for verb, count in counts.items() if count)
    logger.info(f"model.init_from: {growth.layers} layers of {name} become {growth.new_layers}; of the tensors, {done}")


class _Growth:
    def __init__(self, model: Any, source: Any, name: str) -> None:
        self._model, self._source, self._name = model, source, name
        old, new = text_config(source.config), text_config(model.config)
        require_growable(source.config, model.config, name)
        self._lists, self._old_lists = _lists(model), _lists(source)
        self.layers = max(map(len, self._old_lists.values()), default=0)
        self.new_layers = max(map(len, self._lists.values()), default=0)
        self._heads = heads(old, new, name)
        self.is_wider = old.hidden_size != new.hidden_size or _widths(source) != _widths(model)
        self._kinds = getattr(old, "layer_types", None), getattr(new, "layer_types", None)

    def weight(self, full_name: str, by_name: dict[str, Any]) -> Any | None:
        """The parameter of the source that one of the model starts from; None if it has none."""
        return next((by_name[one] for one in self._names(full_name) if one in by_name), None)

    def fitted(self, full_name: str, weight: Any, shape: torch.Size) -> Any:
        """A parameter of the source, tiled to a shape."""
        module_name, _, kind = full_name.rpartition(".")
        module = self._model.get_submodule(module_name)
        if isinstance(module, nn.Embedding) and len(weight) != shape[0]:
            weight = self._rows(module_name, weight, shape[0])
        groups = _GROUPS.get(module_name.rpartition(".")[2], 1) if self._model.config.model_type == "modernbert" else 1
        if weight.dim() != len(shape) or any(b > a for b, a in zip(weight.shape, shape, strict=True)):
            raise ModelError(
                f"model.init_from: {full_name} has the shape {list(weight.shape)} in {self._name} and {list(shape)} in "
                "the model, which is not larger"
            )
        is_matrix = kind == "weight" and isinstance(module, nn.Linear) and not self._is_table(module)
        return tiled(weight, shape, self._heads, groups, inputs=1 if is_matrix else None)

    def scale_head(self) -> None:
        """Divide what the tied output matrix, whose inputs were not divided, is multiplied with."""
        output, table = self._model.get_output_embeddings(), self._model.get_input_embeddings()
        before = self._source.get_input_embeddings().weight.shape[1]
        after = table.weight.shape[1]
        if output is None or output.weight is not table.weight or before == after:
            return
        inside = set(self._model.base_model.modules())
        norms = [module for module in self._model.modules() if "Norm" in type(module).__name__]
        norms = [module for module in norms if module not in inside] or norms
        factor = copies(before, after, self._heads.unit(before, after))
        for parameter in norms[-1].parameters(recurse=False):
            parameter.div_(factor)

    def _is_table(self, module: nn.Module) -> bool:
        return module.weight is self._model.get_input_embeddings().weight

    def _names(self, full_name: str) -> Iterator[str]:
        """Names of the source's parameters for one of the model, the best first."""
        prefix = next((one for one in self._lists if full_name.startswith(f"{one}.")), None)
        if prefix is None or prefix not in self._old_lists:
            yield full_name
            return
        number, _, rest = full_name[len(prefix) + 1 :].partition(".")
        i, count, new_count = int(number), len(self._old_lists[prefix]), len(self._lists[prefix])
        start = i * count // new_count
        old, new = self._kinds
        if old is None or new is None or (len(old), len(new)) != (count, new_count):
            old, new = [""] * count, [""] * new_count
        order = sorted(range(count), key=lambda j: (old[j] != new[i], abs(j - start), j))
        yield from (f"{prefix}.{j}.{rest}" for j in order)

    def _rows(self, module_name: str, table: Any, count: int) -> Any:
        """A table of positions, or of other things than tokens, with another number of rows."""
        if "rel" in module_name:  # distances: zero is in the middle
            offset = (count - len(table)) // 2
            return table[(torch.arange(count) - offset).clamp(0, len(table) - 1)]
        old, new = text_config(self._source.config), text_config(self._model.config)
        first, new_first = 0, 0
        if "position" in module_name:
            first, new_first = positions.first_position(old), positions.first_position(new)
        index = (torch.arange(count) - new_first) % (len(table) - first) + first
        index[:new_first] = torch.arange(new_first).clamp(max=max(first - 1, 0))
        return table[index]


def _widths(model: Any) -> set[int]:
    """The widths of all matrices' inputs."""
    return {module.in_features for module in model.modules() if isinstance(module, nn.Linear)}


def _lists(model: Any) -> dict[str, nn.ModuleList]:
    """{name: list} of the outermost lists of modules, such as that of the layers."""
    found: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not any(name.startswith(f"{outer}.") for outer in found):
            found[name] = module
    return found


def _per_token(model: Any, vocab_size: int) -> set[int]:
    """The ids of the parameters that have a row for each token."""
    output = model.get_output_embeddings()
    tables = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    found = [table for table in tables if len(table) == vocab_size]
    if output is not None:
        found += [output.weight, *([output.bias] if getattr(output, "bias", None) is not None else [])]
    return {id(parameter) for parameter in found}


def _of_tokens(rows: Any, tokens: Sequence[Sequence[int]], count: int) -> Any:
    """[count, ...]: for each token, the mean of the source's rows that it starts from.

    A token without any has the mean of all rows, and the lowest bias: it is likely to be rare, such as a byte.
    """
    flat = rows.view(len(rows), -1)
    table = torch.cat([flat, flat.min(0, keepdim=True)[0] if rows.dim() == 1 else flat.mean(0, keepdim=True)])
    lists = [list(one) or [len(rows)] for one in tokens] + [[len(rows)]] * (count - len(tokens))
    starts = torch.tensor([0, *map(len, lists)][:-1]).cumsum(0)
    means = F.embedding_bag(torch.tensor([id_ for one in lists for id_ in one]), table, starts, mode="mean")
    return means.view(count, *rows.shape[1:])
