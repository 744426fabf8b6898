"""A program that shows stages like a job, to be run on a terminal of some size: `progress_demo.py SECONDS`."""

from __future__ import annotations

import logging
import sys
import time

from mlm_dist.terminal import console, stages
from mlm_dist.training.progress import TrainingProgress

STEPS = 400

console.show_log()
seconds = float(sys.argv[1])
with stages.stage("cleaning documents", 12.5, "MB") as shown:
    for i in range(10):
        time.sleep(seconds / 40)
        shown.advance(1.25)
        shown.details = (f"{33 * (i + 1):,} documents",)
with TrainingProgress(STEPS, 0, is_main=True) as progress:
    for step in range(1, STEPS + 1):
        time.sleep(seconds / STEPS)
        line = {"loss": 8 - step / 100, "learning_rate": 3e-4, "grad_norm": 1.5, "tokens_per_second": 12345.6}
        progress.on_step(step, {**line, "spike": False} if step % 10 == 0 else None)
        if step == STEPS // 2:
            logging.getLogger("mlm_dist.demo").warning("half of the steps are done")
            with stages.stage("validation", 120, "rows", leaves_after=None) as shown:
                for _ in range(10):
                    time.sleep(seconds / 40)
                    shown.advance(12)
