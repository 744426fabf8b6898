"""Downloads from the Hugging Face Hub, counted by a stage instead of the library's own progress bars."""

from __future__ import annotations

from typing import Any

from mlm_dist.terminal.stage import Stage


def counting(shown: Stage) -> type:
    """A class for the argument `tqdm_class` of the Hub's functions, which counts megabytes of a stage."""
    from huggingface_hub.utils import tqdm

    class Counting(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, total: float | None = None, initial: float = 0, **options: Any) -> None:
            super().__init__(*args, **options | {"disable": True})
            shown.total = None if total is None else (shown.total or 0.0) + total / 1e6
            shown.advance(initial / 1e6)

        def update(self, n: float | None = 1) -> None:
            shown.advance((n or 0) / 1e6)

    return Counting
