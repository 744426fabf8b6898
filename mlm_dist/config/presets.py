"""Presets: run configs of this package that `--preset` can name."""

from __future__ import annotations

from pathlib import Path

from mlm_dist import names
from mlm_dist.errors import ConfigError

_FOLDER = Path(__file__).resolve().parent.parent / "configs" / "runs"

# Every file of the folder is a preset.
PRESETS = {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"))}


def preset_file(name: str) -> str:
    """The file of a preset.

    Raises:
        ConfigError: There is no such preset.
    """
    if name in PRESETS:
        return str(PRESETS[name])
    if name.endswith((".yaml", ".yml")):
        raise ConfigError(f"--preset: {name} is a file; write --config {name}")
    raise ConfigError(f"--preset: there is no preset '{name}'; {names.nearest(name, PRESETS)}")


def summary(name: str) -> str:
    """The first sentence of a preset's comment."""
    comment = [
        line.removeprefix("#").strip()
        for line in PRESETS[name].read_text("utf-8").splitlines()[:4]
        if line.startswith("#")
    ]
    return " ".join(comment).split(". ")[0].removesuffix(".") + "."
