"""The configuration: one frozen tree of dataclasses, read from YAML and dotted flags (flag > file > default).

Precision, number of processes and ZeRO stage are not here: they live in the accelerate file alone.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import os
import re
import sys
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mlm_dist.errors import ConfigError


@dataclass(frozen=True)
class CorpusConfig:
    """The documents.

    Args:
        source: python-docs (built in, needs no network), a folder, a git URL or repository (URL#branch-or-commit), a
            .json list of strings, a .jsonl, .parquet or .txt file, or the name of a dataset on the Hugging Face hub.
        patterns: Which files of a folder or repository are documents (globs relative to its root).
        clean: markdown turns every document from Markdown into plain text, none leaves all as they are; by default
            files named .md or .markdown are cleaned.
        min_chars: Documents with fewer characters than this are dropped.
        max_document_mb: Documents larger than this are set aside; the memory that preparing takes grows with it, and
            by a little over 1 KB for each document.
        deduplicate: exact drops every document whose text, white space aside, was seen before; near also drops those
            that are almost the same; none keeps all.
        near_threshold: Two documents are near-copies where this share of their five-word phrases is common to both.
        validation_fraction: Share of the documents held out for validation, chosen by a hash of their text; near-copies
            are always on the same side.
        replay_source: A second corpus (as source), such as general text, to train on as well, so that a checkpoint does
            not forget what it knows. Epochs are of the own corpus; what is held out of it is not trained on.
        replay_share: Share of the rows trained on that come from replay_source, evenly spread.
        export: A .json, .jsonl or .parquet file to write the documents to that stayed, for other tools.
        cache_dir: Where fetched sources and prepared rows are kept between runs; shared by all nodes.
    """

    source: str = "python-docs"
    patterns: list[str] = field(default_factory=lambda: ["**/*.md", "**/*.markdown", "**/*.rst", "**/*.txt"])
    clean: Literal["markdown", "none"] | None = None
    min_chars: int = 200
    max_document_mb: float = 16.0
    deduplicate: Literal["none", "exact", "near"] = "near"
    near_threshold: float = 0.8
    validation_fraction: float = 0.05
    replay_source: str | None = None
    replay_share: float = 0.1
    export: str | None = None
    cache_dir: str = "~/.cache/mlm_dist"


@dataclass(frozen=True)
class TokenizerConfig:
    """The tokenizer.

    Args:
        path: Folder or hub name of a tokenizer; by default the model's own.
        train_vocab_size: Train a tokenizer with this many tokens on the training documents; by default only where
            neither path nor the model brings a tokenizer, with 4096.
        train_kind: What kind of tokenizer to train: wordpiece (uncased, as BERT's), bpe (on bytes, none of which is
            lost, as RoBERTa's and ModernBERT's) or unigram (as XLM-RoBERTa's).
        add_domain_tokens: Add this many words to the tokenizer: those that shorten the training documents the most.
            The embedding of each starts as the mean of its pieces'.
    """

    path: str | None = None
    train_vocab_size: int | None = None
    train_kind: Literal["wordpiece", "bpe", "unigram"] = "wordpiece"
    add_domain_tokens: int | None = None


@dataclass(frozen=True)
class RowsConfig:
    """How documents become rows of tokens.

    Args:
        mode: truncate keeps a document's first window of max_length tokens; chunk keeps all its windows, each in a row
            of its own; pack puts several into a row where they fit, each seen by the model as if it were alone. null is
            pack with an architecture that is known to keep them apart, else chunk.
        max_length: Tokens in a row, special tokens included. Where a checkpoint has positions for fewer, they are
            interpolated linearly, and the log says so.
    """

    mode: Literal["truncate", "chunk", "pack"] | None = None
    max_length: int = 128


@dataclass(frozen=True)
class MaskingConfig:
    """Which tokens are hidden from the model, and how.

    Args:
        probability: Chance of each token to be predicted.
        final_probability: The chance at the end of the run, to which it goes linearly over the run's samples; null
            leaves it as it is.
        unit: What is chosen as one: single tokens, whole words, or spans of one to ten whole words.
        mask: Share of the predicted tokens shown as the mask token.
        random: Share of the predicted tokens shown as a random token; the rest is shown unchanged.
    """

    probability: float = 0.15
    final_probability: float | None = None
    unit: Literal["token", "word", "span"] = "token"
    mask: float = 0.8
    random: float = 0.1

    @property
    def highest_probability(self) -> float:
        """The largest chance of the run."""
        return max(self.probability, self.final_probability or 0.0)


@dataclass(frozen=True)
class ModelConfig:
    """The encoder.

    Args:
        name_or_path: A checkpoint (folder or hub name) to continue from, or an architecture to start from scratch: a
            transformers model type such as bert or roberta, or a small shape: bert-tiny, bert-mini, bert-small.
        from_scratch: Start from random weights even where name_or_path is a checkpoint; its configuration is kept.
        overrides: Fields of the model's configuration to change, such as {hidden_size: 256}.
        masked_head: Compute logits at the masked positions only: same loss, less work.
        compile: Turn the forward and the backward pass into fused kernels by torch.compile, which takes some time
            before the first update. regional compiles a layer and uses it for all layers; whole compiles everything
            from tokens to loss, which takes longer and may save more. The loss stays the same.
        freeze_embeddings: Leave the table of token embeddings, and the output matrix that is tied to it, as they are:
            for small corpora, where most tokens are too rare to learn from. Excludes tokenizer.add_domain_tokens, whose
            embeddings have everything to learn.
    """

    name_or_path: str = "bert-tiny"
    from_scratch: bool = False
    overrides: dict[str, Any] = field(default_factory=dict)
    masked_head: bool = True
    compile: Literal["none", "regional", "whole"] = "none"
    freeze_embeddings: bool = False


@dataclass(frozen=True)
class BatchConfig:
    """The batch, defined over all processes; accumulation follows from it.

    Args:
        global_size: Rows per update, over all processes.
        micro_size: Rows per process and forward pass; by default the largest that divides and fits the memory, of at
            most 65,536 tokens. Where it does not fit, it is halved before the first update.
        initial_size: Rows of the first updates, from which they grow to global_size in 16 steps of equally many tokens.
        initial_length: Tokens of the first rows: each row is cut into pieces of that length, which double until they
            are whole rows again, rows.max_length being a multiple of it by a power of two. Early updates cost less.
        ramp_tokens: Tokens over which both grow, counted as places in rows of rows.max_length.
    """

    global_size: int = 16
    micro_size: int | None = None
    initial_size: int | None = None
    initial_length: int | None = None
    ramp_tokens: int | None = None


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer and how far it goes.

    Args:
        name: adamw; stableadamw, which shortens steps along unexpectedly large gradients; lion, which keeps one moment;
            or muon, which makes the steps of the hidden layers' matrices orthogonal, and is adamw for all else.
            stableadamw and lion need the extra `optimizers`; stableadamw and muon cannot be sharded.
        lr: Peak learning rate; by default 5e-5 from a checkpoint and 0.384 / hidden_size from scratch, for lion a fifth
            of that.
        layer_lr_decay: Each layer's rate is this share of the one above it; the head has the full rate, the embeddings
            the least. 1.0 is the same rate for all.
        weight_decay: Decoupled weight decay, of matrices only.
        betas: The two decay rates of adamw, stableadamw and lion.
        eps: Epsilon of adamw and stableadamw.
        max_grad_norm: Gradients with a larger global norm are scaled down to it; null leaves them alone.
        epochs: Passes over the training rows, each with new masks; fractions are allowed.
        steps: Updates; given, it takes the place of epochs.
        hours: Time from the first update to the last, validation and saving included, over all tries of a run that was
            interrupted; in place of epochs and steps. The schedule ends with it, however fast the machine is.
        warmup: Updates over which the rate rises from zero; a value under 1 is a share of all updates.
        schedule: What the rate does after warm-up. linear and cosine fall to zero, constant stays, wsd stays and falls
            to zero over the last fifth, as 1 - sqrt.
    """

    name: Literal["adamw", "stableadamw", "lion", "muon"] = "adamw"
    lr: float | None = None
    layer_lr_decay: float = 1.0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    max_grad_norm: float | None = 1.0
    epochs: float = 8.0
    steps: int | None = None
    hours: float | None = None
    warmup: float = 0.06
    schedule: Literal["linear", "cosine", "wsd", "constant"] = "linear"


@dataclass(frozen=True)
class ValidationConfig:
    """Held-out validation, always also before the first update and after the last.

    Args:
        every: Updates between validations; null validates at the start and the end only.
        patience: Training ends after so many validations in a row without a better held-out loss, and the best
            checkpoint becomes the model; null trains to the end.
        second_source: A second corpus (as corpus.source), such as general text, on which the model is validated at the
            same moments, so that forgetting shows; nothing of it is trained on, and where it is corpus.replay_source
            too, only what is held out of it is used. null validates on the own corpus alone.
        model: What the validate job evaluates: model (what the run exported), checkpoint (its newest), start
            (model.name_or_path as it is before training), or the folder of a checkpoint or a model.
        sentences: Held-out sentences of which the validate job takes the pseudo-log-likelihood, each token masked in
            turn; 0 leaves it out.
        probe: Let the validate job also measure, without labels, what the starting and the evaluated model are worth
            for search: finding a held-out document by its title, and one half of it by the other.
    """

    every: int | None = 500
    patience: int | None = None
    second_source: str | None = None
    model: str = "model"
    sentences: int = 64
    probe: bool = False


@dataclass(frozen=True)
class CheckpointConfig:
    """Checkpoints, always also after the last update.

    Args:
        every: Updates between checkpoints; null saves after the last update, and when a signal ends the run, only.
        keep_last: Checkpoints to keep; older ones go when a newer one is on the disk.
        resume: auto goes on from the newest good checkpoint of output_dir, never starts anew and sets aside what is
            there, a path goes on from that checkpoint.
    """

    every: int | None = 500
    keep_last: int = 2
    resume: str = "auto"


@dataclass(frozen=True)
class ExportConfig:
    """The exported model.

    Args:
        dtype: What its weights are written in; they are trained and kept in checkpoints as float32.
        checkpoint: Which checkpoint becomes the model: newest, best (of the lowest held-out loss; it is saved when
            it is found, and kept beside the last ones) or, for the export job, a checkpoint's folder. By default best
            where validation.patience is set, else newest.
        verify: Load it in a process of its own and compare before it takes the place of an older one.
        push_to_hub: Repository on the Hugging Face hub to upload it to; a new one is private. null uploads nothing.
    """

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    checkpoint: str | None = None
    verify: bool = True
    push_to_hub: str | None = None


@dataclass(frozen=True)
class TrackingConfig:
    """Experiment trackers.

    Args:
        trackers: tensorboard, wandb, mlflow, trackio or others known to accelerate; none but those named is contacted.
    """

    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])


@dataclass(frozen=True)
class LoggingConfig:
    """Progress lines.

    Args:
        every: Updates between two train lines in metrics.jsonl, the trackers and on the screen.
    """

    every: int = 10


@dataclass(frozen=True)
class Config:
    """A training run.

    Args:
        output_dir: The run directory.
        seed: With the step, all that the order, the masks, the dropout and the first weights depend on.
        corpus: The documents.
        tokenizer: The tokenizer.
        rows: How documents become rows.
        masking: Which tokens are predicted.
        model: The encoder.
        batch: The batch, over all processes.
        optim: The optimizer.
        validation: Held-out validation.
        checkpoint: Checkpoints and going on from them.
        export: The exported model.
        tracking: Experiment trackers.
        logging: Progress lines.
    """

    output_dir: str = "runs/quickstart"
    seed: int = 0
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    rows: RowsConfig = field(default_factory=RowsConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)


def keys(tree: type = Config, prefix: str = "") -> dict[str, Any]:
    """Every leaf of the tree as {dotted key: type}."""
    found: dict[str, Any] = {}
    hints = typing.get_type_hints(tree)
    for item in dataclasses.fields(tree):
        kind = hints[item.name]
        if dataclasses.is_dataclass(kind):
            found |= keys(typing.cast(type, kind), f"{prefix}{item.name}.")
        else:
            found[prefix + item.name] = kind
    return found


def value_of(config: Config, key: str) -> Any:
    """The value of a dotted key."""
    return functools.reduce(getattr, key.split("."), config)


def parse(argv: Sequence[str] | None = None, *, prog: str = "train.py", description: str | None = None) -> Config:
    """Read flags and the YAML files they name into a checked `Config`.

    Args:
        argv: Flags without the program's name; by default those of this process.
        prog: The program's name in the help text.
        description: What the program does, for the help text.

    Raises:
        ConfigError: A key is unknown or has a wrong type or value; the message names it and says what would do.
        SystemExit: --help or --print_config was given, and has been answered.
    """
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog=prog, description=description, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file with any of these keys; flags win over it.")
    parser.add_class_arguments(Config)
    arguments = _files_first(_bare_lists(list(sys.argv[1:] if argv is None else argv)))
    try:
        found = parser.parse_args(arguments)
        groups = {key.split(".")[0] for key in keys() if "." in key}
        for group in sorted(groups):
            if not hasattr(found[group], "__dict__"):
                raise ConfigError(f"{group}: expected keys and values below it, got {found[group]}")
        config = parser.instantiate(found)
    except ConfigError:
        raise
    except UnicodeDecodeError:
        raise ConfigError("--config: the file is not UTF-8 text") from None
    except Exception as error:  # jsonargparse raises several kinds, all of them about the user's input
        raise ConfigError(_explain(str(error))) from None
    config = Config(**{item.name: config[item.name] for item in dataclasses.fields(Config)})
    _check(config)
    return config


def parse_of_run(argv: Sequence[str] | None = None, *, prog: str, description: str | None = None) -> Config:
    """As `parse`, for jobs about a run: where output_dir holds one, its own config.yaml stands before flags and files.

    Raises:
        ConfigError: As `parse`.
    """
    flags = list(sys.argv[1:] if argv is None else argv)
    asks = "--print_config"  # answered by the second pass, when all is merged
    first = [flag for flag in flags if not flag.startswith(asks)]
    output_dir = parse(first, prog=prog, description=description).output_dir
    own = os.path.join(os.path.expanduser(output_dir), "config.yaml")
    files = ["--config", own] if os.path.isfile(own) else []
    # A run's directory may have been moved since its file was written.
    return parse([*files, *flags, "--output_dir", output_dir], prog=prog, description=description)


def to_yaml(config: Config) -> str:
    """The merged configuration as YAML that `parse` reads back to an equal `Config`."""
    import yaml

    plain = dataclasses.asdict(config)
    plain["optim"]["betas"] = list(plain["optim"]["betas"])
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def _bare_lists(argv: list[str]) -> list[str]:
    """Let `--corpus.patterns '*.md'` and `--tracking.trackers a,b` stand for one-line YAML lists."""
    lists = {f"--{key}" for key, kind in keys().items() if typing.get_origin(kind) is list}
    words = [part for word in argv for part in (word.split("=", 1) if word.split("=", 1)[0] in lists else [word])]
    for i in range(1, len(words)):
        if words[i - 1] in lists and not words[i].startswith(("[", "--")):
            quoted = (json.dumps(item) for item in words[i].split(",") if item)
            words[i] = f"[{', '.join(quoted)}]"
    return words


def _files_first(argv: list[str]) -> list[str]:
    """Move --config FILE to the front: flags win over files wherever they stand."""
    files: list[str] = []
    flags: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--config":
            files += [word, *([value] if (value := next(words, None)) is not None else [])]
        else:
            (files if word.startswith("--config=") else flags).append(word)
    return files + flags


def _explain(message: str) -> str:
    """One line for a parser's message: the key, what is wrong with it, and the nearest known key."""
    unknown = re.search(r"unrecognized arguments: (\S+)", message)
    in_group = re.search(r"Group '([^']*)' does not accept option '([^']*)'", message)
    top_level = re.search(r"(?:Key|Option) '([^']+)' is not (?:expected|accepted)", message)
    if unknown and not unknown[1].startswith("-"):
        return f"{unknown[1]!r} is not a flag; write --key value, see --help"
    if unknown or in_group or top_level:
        if unknown:
            key = unknown[1].lstrip("-").split("=")[0]
        elif in_group:
            key = ".".join(part for part in in_group.groups() if part)
        else:
            assert top_level is not None
            key = top_level[1]
        return f"unknown key '{key}'; {_nearest(key)}"
    wrong = re.search(r'key "([^"]+)"', message)
    if wrong and wrong[1] in keys():
        given = re.search(r"(?:Got value|Given value): (.*)", message)
        kind = keys()[wrong[1]]
        return f"{wrong[1]}: expected {_type_name(kind)}, got {given[1] if given else 'something else'}"
    plain = " ".join(message.split())
    for theirs, ours in (('Parser key "config": ', "--config: "), ("Problems parsing config: ", "--config: ")):
        plain = plain.replace(theirs, ours)
    return plain.replace("Unexpected config:", "--config: the file must hold keys and values, but holds")


def _nearest(key: str) -> str:
    known = list(keys())
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if not close:  # a right leaf in the wrong group
        leaf = key.rsplit(".", 1)[-1]
        close = [name for name in known if name.rsplit(".", 1)[-1] == leaf]
        close = close or difflib.get_close_matches(leaf, known, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else "--help lists all keys"


def _type_name(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(typing.get_args(kind))
    if isinstance(kind, type) and not typing.get_args(kind):
        return kind.__name__
    return (
        " or ".join("null" if part is type(None) else _type_name(part) for part in typing.get_args(kind))
        if (type(None) in typing.get_args(kind))
        else str(kind)
    )


def _check(config: Config) -> None:
    """Refuse values that no run could use."""

    def require(key: str, ok: bool, expected: str) -> None:
        if not ok:
            raise ConfigError(f"{key}: {expected}, got {value_of(config, key)}")

    for key in keys():
        value = value_of(config, key)
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise ConfigError(f"{key}: must be a finite number, got {value}")
    corpus, masking, optim, batch = config.corpus, config.masking, config.optim, config.batch
    require("seed", 0 <= config.seed < 2**63, "must be from 0 to 2^63 - 1")
    require("output_dir", bool(config.output_dir.strip()), "must name a folder")
    require("corpus.source", bool(corpus.source.strip()), "must name a source")
    require("corpus.patterns", bool(corpus.patterns), "must hold at least one glob such as '**/*.md'")
    require("corpus.min_chars", corpus.min_chars >= 0, "must not be negative")
    require("corpus.validation_fraction", 0 <= corpus.validation_fraction < 1, "must be at least 0 and under 1")
    require("corpus.max_document_mb", 0 < corpus.max_document_mb <= 1000, "must be over 0 and at most 1000")
    require("corpus.near_threshold", 0 < corpus.near_threshold <= 1, "must be over 0 and at most 1")
    replayed = corpus.replay_source
    require("corpus.replay_source", replayed is None or bool(replayed.strip()), "must name a source, or be null")
    require("corpus.replay_share", 0 < corpus.replay_share < 1, "must be over 0 and under 1")
    suffixes = (".json", ".jsonl", ".parquet")
    exports = corpus.export is None or corpus.export.lower().endswith(suffixes)
    require("corpus.export", exports, f"must end in {', '.join(suffixes)}")
    size = config.tokenizer.train_vocab_size
    require("tokenizer.train_vocab_size", size is None or size >= 300, "must be at least 300")
    if size is not None and config.tokenizer.path is not None:
        raise ConfigError("tokenizer.path and tokenizer.train_vocab_size exclude each other; give one of them")
    words = config.tokenizer.add_domain_tokens
    require("tokenizer.add_domain_tokens", words is None or words >= 1, "must be at least 1, or null")
    if words is not None and config.model.freeze_embeddings:
        raise ConfigError(
            "tokenizer.add_domain_tokens and model.freeze_embeddings exclude each other; give one of them"
        )
    require("rows.max_length", config.rows.max_length >= 8, "must be at least 8")
    require("masking.probability", 0 < masking.probability < 1, "must be over 0 and under 1")
    final = masking.final_probability
    require("masking.final_probability", final is None or 0 < final < 1, "must be over 0 and under 1, or null")
    require("masking.mask", 0 <= masking.mask <= 1, "must be from 0 to 1")
    require("masking.random", 0 <= masking.random <= 1 - masking.mask + 1e-9, "must be from 0 to 1 - masking.mask")
    require("batch.global_size", batch.global_size >= 1, "must be at least 1")
    require("batch.micro_size", batch.micro_size is None or batch.micro_size >= 1, "must be at least 1")
    grows = batch.initial_size is not None or batch.initial_length is not None
    is_smaller = batch.initial_size is None or 1 <= batch.initial_size <= batch.global_size
    require("batch.initial_size", is_smaller, f"must be from 1 to batch.global_size, which is {batch.global_size}")
    length = config.rows.max_length
    halves = [length >> k for k in range(length.bit_length()) if length % (1 << k) == 0 and length >> k >= 8]
    fits = batch.initial_length is None or batch.initial_length in halves
    require("batch.initial_length", fits, f"must be one of {', '.join(map(str, halves))}, given rows.max_length")
    require("batch.ramp_tokens", batch.ramp_tokens is None or batch.ramp_tokens >= 1, "must be at least 1, or null")
    if grows and batch.ramp_tokens is None:
        which = "initial_size" if batch.initial_size is not None else "initial_length"
        raise ConfigError(f"batch.{which}: it is not said over how many tokens it grows; set batch.ramp_tokens")
    if batch.ramp_tokens is not None and not grows:
        raise ConfigError("batch.ramp_tokens: nothing grows; set batch.initial_size or batch.initial_length as well")
    require("optim.lr", optim.lr is None or optim.lr > 0, "must be over 0")
    require("optim.weight_decay", optim.weight_decay >= 0, "must not be negative")
    require("optim.betas", all(0 <= beta < 1 for beta in optim.betas), "must both be at least 0 and under 1")
    require("optim.eps", optim.eps > 0, "must be over 0")
    require("optim.max_grad_norm", optim.max_grad_norm is None or optim.max_grad_norm > 0, "must be over 0, or null")
    require("optim.epochs", optim.epochs > 0, "must be over 0")
    require("optim.steps", optim.steps is None or optim.steps >= 1, "must be at least 1")
    require("optim.hours", optim.hours is None or optim.hours > 0, "must be over 0, or null")
    if optim.hours is not None and (optim.steps is not None or optim.epochs != OptimConfig.epochs):
        other = "epochs" if optim.steps is None else "steps"
        raise ConfigError(f"optim.hours and optim.{other} exclude each other; give one of them")
    if optim.hours is not None and final is not None:
        raise ConfigError(
            "optim.hours and masking.final_probability exclude each other, as masks follow from the number of samples; "
            "give one of them"
        )
    require("optim.layer_lr_decay", 0 < optim.layer_lr_decay <= 1, "must be over 0 and at most 1")
    require("optim.warmup", optim.warmup >= 0, "must not be negative")
    every = config.validation.every
    require("validation.every", every is None or every >= 1, "must be at least 1, or null")
    validation = config.validation
    require(
        "validation.patience", validation.patience is None or validation.patience >= 1, "must be at least 1, or null"
    )
    require("validation.sentences", validation.sentences >= 0, "must not be negative")
    second = validation.second_source
    require("validation.second_source", second is None or bool(second.strip()), "must name a source, or be null")
    point = config.export.checkpoint
    require("export.checkpoint", point is None or bool(point.strip()), "must be newest, best or a path, or null")
    if validation.patience is not None and validation.every is None:
        raise ConfigError("validation.patience: there is nothing to be patient about without validation.every; set it")
    if corpus.validation_fraction == 0:
        for key, is_set in (
            ("validation.patience", validation.patience is not None),
            ("validation.second_source", second is not None),
            ("export.checkpoint: best", point == "best"),
        ):
            if is_set:
                raise ConfigError(f"{key} needs held-out documents; set corpus.validation_fraction over 0")
    every = config.checkpoint.every
    require("checkpoint.every", every is None or every >= 1, "must be at least 1, or null")
    require("checkpoint.keep_last", config.checkpoint.keep_last >= 1, "must be at least 1")
    require("checkpoint.resume", bool(config.checkpoint.resume.strip()), "must be auto, never or a path")
    require("validation.model", bool(config.validation.model.strip()), "must be model, checkpoint, start or a path")
    repository = config.export.push_to_hub
    is_name = repository is None or re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repository) is not None
    require("export.push_to_hub", is_name, "must be a repository such as name/model, or null")
    require("logging.every", config.logging.every >= 1, "must be at least 1")
