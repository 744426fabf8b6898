"""Train a masked-language model on documents.

    python mlm_dist/train.py docs/
    accelerate launch mlm_dist/train.py docs/
    accelerate launch --config_file configs/accelerate/zero2.yaml mlm_dist/train.py docs/ --optim.lr 3e-5

A run is a function of (seed, step): order, masks, dropout and learning rate are computed from them.
"""

from __future__ import annotations

from mlm_dist import interruption

if __name__ == "__main__":
    interruption.watch()  # the imports below take seconds

import logging
from collections.abc import Sequence

from mlm_dist import environment, objectives, ranks, report, runtime, system_errors
from mlm_dist.checkpoint import find
from mlm_dist.checkpoint.restore import restore
from mlm_dist.config import Config
from mlm_dist.corpora import Corpora, load_or_prepare
from mlm_dist.engine.launch import Launch
from mlm_dist.engine.protocol import Engine
from mlm_dist.engine.start import start_engine
from mlm_dist.errors import Interrupted
from mlm_dist.evaluation.validation_set import ValidationSet
from mlm_dist.export import export_trained, model_files, push
from mlm_dist.hf_model.export_trial import ExportTrial
from mlm_dist.lengths import complete
from mlm_dist.model.compilation import compile_forward
from mlm_dist.optim.optimizers import build_optimizer
from mlm_dist.resolve import resolve
from mlm_dist.run_dir import RunDir
from mlm_dist.spec import Spec
from mlm_dist.training.callbacks import Callback
from mlm_dist.training.fit_memory import explained, fit_phases
from mlm_dist.training.phases import Phases
from mlm_dist.training.records import begin, write_records
from mlm_dist.training.result import TrainResult
from mlm_dist.training.session import Session
from mlm_dist.training.signals import StopSignal
from mlm_dist.training.step import Messages, seed_dropout, train_step
from mlm_dist.training.task import Task

logger = logging.getLogger("mlm_dist.train")  # __name__ is __main__ if this file is launched


@environment.restored()
@system_errors.explained()
def run(config: Config, callbacks: Sequence[Callback] = ()) -> TrainResult:
    """Prepare the corpus if necessary, train, validate, and export the model; called on every rank.

    Args:
        config: The run.
        callbacks: Called while it trains.

    Raises:
        UserError: Something in the input is wrong; the message names the key or file and the remedy.
        Interrupted: A signal stopped the run, which was saved if it had begun to train; the same call resumes it.
    """
    spec = resolve(config, Launch.read())
    with RunDir.claim(spec) as run_dir:
        corpora = load_or_prepare(spec)
        spec = complete(spec, corpora.of_rows)
        is_main = ranks.is_main()
        with ExportTrial(spec.export, is_main=is_main) as trial, StopSignal() as signal, start_engine(spec) as engine:
            watching = [*callbacks, *report.while_training(run_dir, spec)]
            session = fit(spec, corpora, run_dir, engine, signal, trial, watching)
            interruption.settle()
            if session.is_finished:
                trained = session.task.module.model, session.state.step, session.averaged
                export_trained(spec, corpora.main, run_dir, engine, *trained)
            result = session.end()
            if not result.is_finished:
                if is_main:
                    report.after_training(run_dir, spec, is_finished=False)
                raise Interrupted(
                    f"stopped by a signal, saved at step {result.step}; run the same command again to resume"
                )
        if is_main:
            examples = report.after_training(run_dir, spec)
            push(run_dir, spec.export)
            result.log([*examples, *report.advice(run_dir, spec)])
    return result


def fit(
    spec: Spec,
    corpora: Corpora,
    run_dir: RunDir,
    engine: Engine,
    signal: StopSignal,
    trial: ExportTrial,
    callbacks: Sequence[Callback] = (),
) -> Session:
    """Train to the end of the run, or until a signal; collective."""
    task = Task.create(spec, corpora)
    saved, checkpoints = spec.checkpoint, run_dir.checkpoints
    resume_from = find.to_resume(engine, saved, checkpoints, task.identity, spec.phases, spec.validation.patience)
    engine.on_main(lambda: begin(run_dir, resume_from, spec))
    engine.on_main(lambda: report.before_training(run_dir, task.module.model, corpora.main))
    engine.on_main(lambda: trial.begin(task.module.model, lambda: model_files(spec, corpora.main), run_dir.path))
    signal.check(engine)

    spec = fit_phases(engine, spec, task, corpora)
    with Phases(spec, task, corpora, engine) as phases, explained(spec.batches, spec.model.checkpointing):
        optimizer = build_optimizer(task.module, spec.optim, task.frozen)
        state = restore(resume_from, engine, task.module, optimizer, spec.batches, phases.example_loss)
        compiled = compile_forward(task.module, spec.model.compile)
        engine.on_main(lambda: write_records(run_dir, spec, corpora, engine, state.step))
        signal.check(engine)
        max_rows, predicts = spec.validation.max_rows, any(objectives.predicts(one.objective) for one in spec.phases)
        validation_set = ValidationSet(corpora.main, spec.trained_on, max_rows, corpora.pairs, predicts=predicts)
        session = Session(spec, task, engine, phases, validation_set, run_dir, state)
        with session.running(compiled, callbacks):
            engine.on_main(trial.end)  # before the first step
            while not session.is_finished:
                phase, step = session.phase_of_step(), session.state.step
                lr = phase.learning_rate(step)
                seed_dropout(spec.seed, step, engine.rank)
                messages = Messages(signal.requested, phase.length.milliseconds)
                result = train_step(engine, phase.objective, phase.batches[step], lr, step, messages)
                due = session.after(result)  # tensors stay on the device
                stop = signal.agreed(result, is_logged=due.log)
                session.log(result, lr, is_due=due.log or stop)  # the only wait for the device
                if due.validation:
                    session.validate()
                if stop or due.checkpoint(session.state.best):
                    session.save(stop=stop)
                if stop:
                    break
    return session


if __name__ == "__main__":
    runtime.main(run, prog="train.py", description=__doc__)
