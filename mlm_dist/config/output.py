"""Sections of the config about validation, checkpoints, the exported model, trackers and logging."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mlm_dist.config.checks import Section
from mlm_dist.errors import ConfigError

Task = Literal["retrieval", "queries", "classification"]
MOST_AVERAGED = 1000  # checkpoints
_LANGUAGE = r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*|multilingual"


@dataclass(frozen=True)
class ValidationConfig(Section):
    """Validation; it also runs before the first step and after the last.

    Args:
        every: Steps between validations; null validates at the start and the end only.
        max_rows: Rows of the validation set that are used during training, evenly spaced over it; null uses all. Each
            source that is not in corpus.mix has at most as many. 2048 rows cost about as much as training on a third as
            many, and of 128 tokens each they have 40,000 masked tokens: the standard error of the loss is about 0.02.
            The validate job uses all rows.
        patience: Training ends after this many validations in a row without a lower validation loss, and the best
            checkpoint is exported; null trains to the end.
        model: What the validate job evaluates: model (the exported model), checkpoint (the newest one), average (the
            average of export.average, from the checkpoints), start (model.name_or_path before training), or the folder
            of a checkpoint or a model.
        sentences: Number of sentences of the validation set for which the validate job computes the
            pseudo-log-likelihood, masking each token in turn; 0 turns it off.
        tasks: What the validate job also measures of the starting and the evaluated model, with frozen embeddings:
            retrieval (finding held-out documents by titles, headings, first halves and texts of links, without labels),
            queries (finding documents for the queries of validation.queries), classification (a linear classifier on
            the examples of validation.labels). See docs/validation.md.
        queries: File of JSON lines for the task queries, each with a query and the ids of the documents that answer it:
            {"query": "reset a password", "relevant": ["login.md"]}.
        labels: File of JSON lines for the task classification: texts with a label, {"text": "no picture", "label":
            "screen"}, or words with a label each, {"tokens": ["Ada", "writes"], "labels": ["NAME", "O"]}.
    """

    SECTION = "validation"

    every: int | None = 500
    max_rows: int | None = 2048
    patience: int | None = None
    model: str = "model"
    sentences: int = 64
    tasks: list[Task] = field(default_factory=list)
    queries: str | None = None
    labels: str | None = None

    def check(self) -> None:
        """See `Section.check`."""
        self.require_range("every", 1, or_null=True)
        self.require_range("max_rows", 1, or_null=True)
        self.require_range("patience", 1, or_null=True)
        self.require_range("sentences", 0)
        self.require_text("model", "must be model, checkpoint, average, start or a path")
        if self.patience is not None and self.every is None:
            raise ConfigError("validation.patience requires validation.every; set it")
        self.require("tasks", len(set(self.tasks)) == len(self.tasks), "must name each task once")
        for name, task in (("queries", "queries"), ("labels", "classification")):
            file = getattr(self, name)
            self.require_text(name, "must be a path, or null")
            self.require_place(name)
            if task in self.tasks and file is None:
                raise ConfigError(f"validation.{name}: the task {task} needs a file of JSON lines; set it")
            if task not in self.tasks and file is not None:
                raise ConfigError(f"validation.tasks: {task} is not among them, but validation.{name} is set; add it")


@dataclass(frozen=True)
class CheckpointConfig(Section):
    """Checkpoints; one is also saved after the last step.

    Args:
        every: Steps between checkpoints; null saves after the last step, and when a signal stops the run, only.
        keep_last: Checkpoints to keep; older ones are removed once a newer one is on the disk.
        resume: auto: resume from the newest good checkpoint of output_dir, if there is one; never: start fresh and
            archive the existing run; a path: resume from that checkpoint. One of another run begins this run, so it is
            not used once this run has checkpoints of its own.
        store: Folder of this run in an object store, such as s3://bucket/runs/mine. Checkpoints and records are
            uploaded to it while training continues, and another machine with the same command resumes from it.
    """

    SECTION = "checkpoint"

    every: int | None = 500
    keep_last: int = 2
    resume: str = "auto"
    store: str | None = None

    def check(self) -> None:
        """See `Section.check`."""
        self.require_range("every", 1, or_null=True)
        self.require_range("keep_last", 1)
        self.require_text("resume", "must be auto, never or a path")
        self.require_store("store")

    def resume_of(self, output_dir: str, *, is_restarted: bool) -> str:
        """What to resume from, as `resume`. A job that was started again continues with what it has saved.

        Args:
            output_dir: The run directory.
            is_restarted: Whether a launcher started the job again, with the flags of the first time. A checkpoint of
                another run still begins the run then, because the run may have saved nothing.
        """
        own = Path(output_dir).expanduser().resolve() / "checkpoints"
        is_own = self.resume == "never" or Path(self.resume).expanduser().resolve().parent == own
        return "auto" if is_restarted and is_own else self.resume


@dataclass(frozen=True)
class ExportConfig(Section):
    """The exported model.

    Args:
        dtype: Data type of its weights; training and checkpoints use float32.
        checkpoint: The checkpoint to export: newest, best (the one with the lowest validation loss, which is saved when
            it is found and kept beside the last ones) or, for the export job, the folder of a checkpoint. By default
            best if validation.patience is set, else newest.
        average: Export averaged weights: ema (the exponential moving average of optim.ema_decay) or a number of
            checkpoints, the newest ones, whose mean is exported; checkpoint.keep_last must be at least as many. The
            average is computed in fp32, and validated at the end of the run. Excludes export.checkpoint: best. null
            exports the weights of a checkpoint.
        format: safetensors, or onnx to write the ONNX graph onnx/model.onnx as well, which needs the extra
            mlm_dist[onnx].
        verify: Load the model in a new process and compare it before it replaces an older one. Before the first step
            the same is done with the untrained model.
        push_to_hub: Repository on the Hugging Face Hub to upload the model to; a new one is private. null uploads
            nothing.
        license: Licence of the model, for its card: an identifier of the Hub such as apache-2.0, or the name of another
            licence. It is not guessed: with null the card says that none is stated.
        language: Languages of the documents, for the card: ISO 639 codes such as en or pt-BR, or multilingual. They are
            not guessed either.
    """

    SECTION = "export"

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    checkpoint: str | None = None
    average: Literal["ema"] | int | None = None
    format: Literal["safetensors", "onnx"] = "safetensors"
    verify: bool = True
    push_to_hub: str | None = None
    license: str | None = None
    language: list[str] = field(default_factory=list)

    def is_best(self, patience: int | None) -> bool:
        """Whether the checkpoint with the best validation is kept and exported, given `validation.patience`."""
        if self.checkpoint is None:
            return patience is not None and self.average is None
        return self.checkpoint == "best"

    def check(self) -> None:
        """See `Section.check`."""
        self.require_text("checkpoint", "must be newest, best or a path, or null")
        self.require_place("checkpoint")
        self._check_average()
        repository = self.push_to_hub
        is_name = repository is None or re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repository) is not None
        self.require("push_to_hub", is_name, "must be a repository such as name/model, or null")
        is_id = self.license is None or re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", self.license) is not None
        self.require("license", is_id, "must be in lower case without spaces, such as apache-2.0, or null")
        are_codes = all(re.fullmatch(_LANGUAGE, one) for one in self.language)
        self.require("language", are_codes, "must be ISO 639 codes such as [en, pt-BR], or multilingual")

    def _check_average(self) -> None:
        if self.average is None:
            return
        is_count = isinstance(self.average, int)
        self.require(
            *("average", not isinstance(self.average, int) or 2 <= self.average <= MOST_AVERAGED),
            f"must be ema, from 2 to {MOST_AVERAGED}, or null",
        )
        if self.checkpoint == "best":
            raise ConfigError("export.average and export.checkpoint: best exclude each other; give one of them")
        if is_count and self.checkpoint not in (None, "newest"):
            raise ConfigError(
                "export.average: a number averages the newest checkpoints; remove export.checkpoint, or write ema for "
                "the average in that checkpoint"
            )


@dataclass(frozen=True)
class TrackingConfig(Section):
    """Experiment trackers.

    Args:
        trackers: tensorboard, wandb, mlflow, trackio or others that accelerate supports; no other is contacted.
        project: Project of the run: the project of wandb and others, the experiment of mlflow.
        group: A group of runs, such as a sweep: the group of wandb, the tag `group` of mlflow. Other trackers have no
            groups; there it is one of the settings.
        tags: Tags of the run in wandb and mlflow. In other trackers they are one of the settings.
    """

    SECTION = "tracking"

    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])
    project: str = "mlm_dist"
    group: str | None = None
    tags: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class WatchdogConfig(Section):
    """The end of a run that hangs.

    Args:
        minutes: A rank that makes no progress while it trains, validates or saves for so long ends the run with exit
            code 1. All ranks write the stacks of their threads to logs/ of the run directory first. Choose a larger
            number if compiling the first step takes longer. null never ends a run.
    """

    SECTION = "watchdog"

    minutes: float | None = 30.0

    def check(self) -> None:
        """See `Section.check`."""
        self.require_over_zero("minutes", or_null=True)


@dataclass(frozen=True)
class LoggingConfig(Section):
    """Progress lines.

    Args:
        every: Steps between two train lines in metrics.jsonl, the trackers and on the terminal.
    """

    SECTION = "logging"

    every: int = 10

    def check(self) -> None:
        """See `Section.check`."""
        self.require_range("every", 1)
