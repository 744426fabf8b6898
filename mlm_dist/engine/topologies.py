"""Topologies: accelerate files that `--topology` can name, those of this package and of others."""

from __future__ import annotations

from pathlib import Path

from mlm_dist.registry import Registry

_FOLDER = Path(__file__).resolve().parent.parent / "configs" / "accelerate"

# Every file of the folder is a topology.
TOPOLOGIES: Registry[Path] = Registry(
    "mlm_dist.topologies", {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"))}
)
