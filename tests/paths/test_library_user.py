"""A library user trains from Python: configs, results, callbacks, errors, and a run that is stopped and resumed."""

from __future__ import annotations

import json

import pytest
from wheel_user import User

SCRIPT = '''
"""Train a small model, stop it on the way, and resume it."""
import dataclasses
import json
import os
import signal

from mlm_dist import Callback, Config, plan, prepare, report, train, validate
from mlm_dist.errors import ConfigError, Interrupted

config = Config(
    output_dir="runs/whole",
    corpus={"source": "documents", "cache_dir": "cache", "validation_fraction": 0.2},
    tokenizer={"train_vocab_size": 1000},
    rows={"max_length": 64},
    optim={"duration": "8 steps"},
    validation={"every": 4, "sentences": 5},
    logging={"every": 1},
    export={"verify": False},
)
try:
    Config(optim={"learning_rate": 1e-3})
except ConfigError as error:
    refused = str(error)

spec = plan.run(config)
corpus = prepare.run(config)
whole = train.run(config)


class StopAt(Callback):
    """Stop the run as Ctrl-C would."""

    def on_step(self, step, metrics):
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)


again = dataclasses.replace(config, output_dir="runs/stopped")
try:
    train.run(again, callbacks=[StopAt()])
    stopped = False
except Interrupted:
    stopped = True
resumed = train.run(again)
evaluated = validate.run(again)
page = report.run(again)
print(json.dumps({
    "refused": refused,
    "batch": spec.phases[0].batch.global_size,
    "rows": len(corpus.rows("train")),
    "losses": whole.losses,
    "stopped": stopped,
    "resumed": resumed.losses,
    "step": resumed.step,
    "best": whole.best.loss,
    "model": str(resumed.model),
    "page": str(page),
    "evaluated": sorted(evaluated),
}))
'''


@pytest.mark.slow
def test_library_user_through_the_python_api(user: User) -> None:
    user.has_documents("documents")
    user.saves("study.py", SCRIPT)
    ended = user.types("python study.py")
    said = json.loads(ended.stdout.splitlines()[-1])
    assert ended.stdout.count("\n") == 1, "a library prints nothing"
    assert "learning_rate" in said["refused"] and "optim.lr" in said["refused"]
    assert said["batch"] == 16 and said["rows"] > 0
    assert said["stopped"] and said["step"] == 8
    assert list(said["losses"]) == [str(step) for step in range(1, 9)]
    again = list(said["resumed"])
    assert again[0] in ("4", "5") and again[-1] == "8", "it stops in the step of the signal, or after the next"
    assert said["resumed"] == {step: said["losses"][step] for step in again}
    assert 0 < said["best"] < 10
    assert (user.folder / said["model"] / "model.safetensors").exists() and (user.folder / said["page"]).exists()
