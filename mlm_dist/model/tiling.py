"""Tiling: the weights of a larger layer from those of a smaller one, with its values in the center."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Heads:
    """The attention heads of a model before and after it grows.

    Args:
        size: Width of a head, which stays the same.
        before: Heads before.
        after: Heads after.
        shared: Heads of queries that share a head of keys and values.
    """

    size: int
    before: int
    after: int
    shared: int = 1

    def unit(self, before: int, after: int) -> int:
        """The largest number of neighbors of a dimension that stay together: whole heads, where it holds them."""
        if (before, after) == (self.before, self.after):
            return self.shared
        keys = (self.size * self.before // self.shared, self.size * self.after // self.shared)
        unit = self.size if (before, after) == keys else self.size * self.shared
        return unit if before % unit == after % unit == 0 else 1


def tiled_index(before: int, after: int, unit: int = 1) -> torch.Tensor:
    """[after]: the source of each value, (i - offset) mod before with offset = floor((after - before) / 2).

    The center holds the smaller dimension as it is, and both sides continue it around: the center tiling of
    ModernBERT-large (Warner et al., 2024, https://arxiv.org/abs/2412.13663, section 2.2), after
    the Phi models. The offset is a multiple of `unit`, so that heads stay whole.
    """
    offset = (after - before) // unit // 2 * unit
    return (torch.arange(after) - offset) % before


def copies(before: int, after: int, unit: int = 1) -> torch.Tensor:
    """[after]: how often the source of each value occurs."""
    index = tiled_index(before, after, unit)
    return torch.bincount(index, minlength=before)[index]


def tiled(
    weight: torch.Tensor, shape: torch.Size, heads: Heads, groups: int = 1, inputs: int | None = None
) -> torch.Tensor:
    """A weight tiled to a larger shape.

    Weights of an input that occurs c times are divided by c, so that the layer's output is that of the smaller layer,
    tiled (Net2Net: Chen et al., 2016, https://arxiv.org/abs/1511.05641, section 2.2). With widths that are a multiple
    of the smaller ones, the whole model then computes the same function.

    Args:
        weight: The smaller weight.
        shape: The larger shape.
        heads: The heads of the model.
        groups: Matrices that the first dimension holds one after the other, such as 3 for queries, keys and values.
        inputs: The dimension that holds the layer's inputs; None for embeddings, biases and norms.
    """
    found = weight
    for dimension, (before, after) in enumerate(zip(weight.shape, shape, strict=True)):
        if before == after:
            continue
        parts = groups if dimension == 0 else 1
        unit = heads.unit(before // parts, after // parts)
        index = tiled_index(before // parts, after // parts, unit)
        index = torch.cat([index + part * (before // parts) for part in range(parts)])
        found = found.index_select(dimension, index)
        if dimension == inputs:
            view = [1] * found.dim()
            view[dimension] = after
            found = found / copies(before, after, unit).view(view)
    return found
