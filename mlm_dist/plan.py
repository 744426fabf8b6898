"""Dry run: show what a run will be and need, without fetching, preparing or launching anything.

    python mlm_dist/plan.py docs/
    accelerate launch --config_file configs/accelerate/zero2.yaml mlm_dist/plan.py --preset azure_docs

It prints every value as it is decided, then a table: size, time and memory. Of a model on the Hub it reads the
configuration and the tokenizer. Sizes are from formulas (engine/memory.py); the time is measured on random tokens if
one process trains, and that of several is estimated with what they exchange (engine/communication.py). Under a launcher
only rank 0 prints.
"""

from __future__ import annotations

from mlm_dist import interruption

if __name__ == "__main__":
    interruption.watch()  # the imports below take seconds

import logging
import os
import shlex
import sys

from mlm_dist import corpora, environment, runtime, system_errors
from mlm_dist.config import Config
from mlm_dist.corpus import summary
from mlm_dist.engine.launch import Launch
from mlm_dist.lengths import complete
from mlm_dist.plan_table import plan_table
from mlm_dist.resolve import resolve
from mlm_dist.spec import Spec
from mlm_dist.terminal.console import text_of

logger = logging.getLogger("mlm_dist.plan")  # __name__ is __main__ if this file is launched


@environment.restored()
@system_errors.explained()
def run(config: Config) -> Spec:
    """Show the plan of a run on one screen; returns the spec, with its length if the corpus is prepared.

    Raises:
        ConfigError: Keys contradict each other, the accelerate file, the DeepSpeed JSON or this machine.
        ModelError: The model or the tokenizer does not exist, or they do not fit each other.
    """
    spec = resolve(config, Launch.read())
    if spec.launch.is_main:
        found, sizes = corpora.find(spec)
        if corpus := found.get(spec.corpus.rows):
            summary.warn_of_unknown(corpus.manifest)
        if all(phase.rows in found for phase in spec.phases):
            spec = complete(spec, found)
        logger.info("%s", spec.to_yaml())
        logger.info("%s", text_of(plan_table(spec, corpus, sizes)))
        if command := next_command():
            logger.info("next: %s", command)
    return spec


def next_command() -> str:
    """The command line that trains what this one plans; empty if this is no program."""
    words, (program, *rest) = os.environ.get(runtime.COMMAND), sys.argv
    if words is not None:
        return f"mlm-dist train {words}".strip()
    if os.path.basename(program) != "plan.py":
        return ""
    return shlex.join(["python", program.removesuffix("plan.py") + "train.py", *rest])


if __name__ == "__main__":
    runtime.main(run, prog="plan.py", description=__doc__)
