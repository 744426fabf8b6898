"""The section of the model card with the tasks of the validate job."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from mlm_dist.hf_model.validated_weights import cell
from mlm_dist.pages.tables import Table
from mlm_dist.pages.task_tables import task_tables

logger = logging.getLogger(__name__)


def tasks_of(path: Path, folder: Path, step: int, average: int | Literal["ema"] | None) -> dict[str, Any] | None:
    """The content of tasks.json; None if there is none that can be read, or if it is of other weights.

    Args:
        path: The file.
        folder: The folder of the exported model. Results of the model that was in it before count as well.
        step: The step of the weights.
        average: What they are the average of: ema, a number of checkpoints, or None for those of the step.
    """
    try:
        tasks: dict[str, Any] = json.loads(path.read_text("utf-8"))
        is_of_folder = Path(tasks["model"]).resolve() == folder.resolve()
        is_of_weights = is_of_folder or (tasks["step"], tasks["average"]) == (step, average)
        task_section(tasks)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        logger.warning("%s cannot be read; the model card is written without it", path)
        return None
    return tasks if is_of_weights else None


def task_section(tasks: Mapping[str, Any] | None) -> str:
    """The tables as Markdown, with a heading and a blank line before; empty without tasks of the trained model.

    Args:
        tasks: The content of tasks.json.
    """
    if tasks is None or not any("trained" in task["models"] for task in tasks["tasks"].values()):
        return ""
    step = tasks.get("step")
    weights = "of the model that was exported before" if step is None else f"of step {step:,}"
    about = (
        f"Measured with `mlm-dist validate` on the weights {weights}: cosine of mean-pooled states of at most "
        f"{tasks['max_tokens']:,} tokens, or a linear classifier on them, without fine-tuning."
    )
    return "\n\n".join(["\n## Tasks", about, *map(_markdown, task_tables({**tasks, "model": "this model"}))]) + "\n"


def _markdown(table: Table) -> str:
    lines = [[cell(one) for one in row] for row in (table.heads, *table.rows)]
    lines.insert(1, ["---"] * len(table.heads))
    return f"{table.caption}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)
