"""Names that people know from Trainer, run_mlm.py and other tools, and the keys to use instead.

The table only serves messages: none of these names is accepted, so that each key has one spelling.
"""

from __future__ import annotations

import shlex
from typing import NamedTuple


class Alias(NamedTuple):
    """What to use instead of some names.

    Args:
        names: The names, separated by spaces, with underscores.
        key: The key of the config, or empty if no key of a run means this.
        meaning: What the key is, with its unit; without a key, what to do instead.
        sample: A value of the key, for when none is given.
        pattern: How a value that was given becomes one of the key; empty if it cannot be kept.
    """

    names: str
    key: str
    meaning: str
    sample: str = ""
    pattern: str = "{}"


_GLOBAL_SIZE = (
    "batch.global_size",
    "the rows per step over all processes (rows per device x accumulation x processes)",
)
_LENGTH = "the length of the run, with its unit"
_TOPOLOGY = "the topology sets the {}; flags of the launcher need --topology"
_PRECISION = _TOPOLOGY.format("precision") + ": --topology gpu --mixed_precision "
_SPLIT = "the fraction of the documents that is held out for validation"

TABLE = (
    # Learning rate and optimizer
    Alias("lr learning_rate peak_lr max_lr base_lr", "optim.lr", "the peak learning rate", "5e-5"),
    Alias("weight_decay wd decay", "optim.weight_decay", "the decoupled weight decay, of matrices only", "0.01"),
    Alias("adam_beta1 adam_beta2 beta1 beta2 adam_betas", "optim.betas", "both decay rates", "[0.9, 0.98]", ""),
    Alias("adam_epsilon adam_eps epsilon", "optim.eps", "the epsilon of adamw", "1e-6"),
    Alias(
        "max_grad_norm grad_clip gradient_clip gradient_clipping gradient_clip_val clip_grad clip_norm clip",
        "optim.max_grad_norm",
        "the largest global gradient norm",
        "1.0",
    ),
    Alias("optimizer optim", "optim.name", "the optimizer: adamw, stableadamw or muon", "adamw", ""),
    Alias(
        "lr_scheduler_type lr_scheduler scheduler lr_schedule scheduler_type",
        "optim.schedule",
        "the schedule: linear, cosine, wsd or constant",
        "linear",
        "",
    ),
    Alias("warmup warmup_steps num_warmup_steps", "optim.warmup", "steps, or under 1 a fraction of all", "500"),
    Alias("warmup_ratio warmup_proportion warmup_fraction", "optim.warmup", "a fraction of all steps", "0.06"),
    Alias("layerwise_lr_decay llrd layer_decay", "optim.layer_lr_decay", "the rate of a layer over the next", "0.9"),
    # Length
    Alias(
        "num_train_epochs epochs num_epochs n_epochs max_epochs train_epochs nb_epochs",
        "optim.duration",
        _LENGTH,
        "3 epochs",
        "{} epochs",
    ),
    Alias(
        "max_steps steps num_steps train_steps num_train_steps total_steps max_train_steps training_steps iterations",
        "optim.duration",
        _LENGTH,
        "1000 steps",
        "{} steps",
    ),
    Alias("max_hours hours max_time train_hours", "optim.duration", _LENGTH, "2 hours", "{} hours"),
    Alias("max_tokens train_tokens num_tokens duration", "optim.duration", _LENGTH, "10B tokens", "{} tokens"),
    # Batch
    Alias("batch_size bs batch train_batch_size global_batch_size effective_batch_size", *_GLOBAL_SIZE, "32"),
    Alias("per_device_train_batch_size per_gpu_train_batch_size", *_GLOBAL_SIZE, "32"),
    Alias("gradient_accumulation_steps grad_accum accumulation_steps accumulate_grad_batches", *_GLOBAL_SIZE, "32", ""),
    Alias(
        "micro_batch_size train_micro_batch_size_per_gpu micro_batch device_batch_size device_train_microbatch_size",
        "batch.micro_size",
        "the rows per process and forward pass; found by itself if left open",
        "8",
    ),
    Alias(
        "max_seq_length max_seq_len max_sequence_length seq_len seq_length sequence_length block_size max_length "
        "max_len model_max_length context_length rows",
        "rows.max_length",
        "the tokens per row, special tokens included",
        "512",
    ),
    Alias("packing pack line_by_line pad_to_max_length group_texts", "rows.mode", "how rows are filled", "pack", ""),
    Alias(
        "mlm_probability mlm_prob mask_prob mask_probability mask_rate mask_ratio masking_ratio masking_rate "
        "masked_lm_prob masking",
        "masking.probability",
        "the probability of each token to be predicted",
        "0.3",
    ),
    Alias(
        "whole_word_mask whole_word_masking wwm do_whole_word_mask",
        "masking.unit",
        "what is masked together: token, word or span",
        "word",
        "",
    ),
    Alias("temperature tau contrastive", "contrastive.temperature", "what similarities are divided by", "0.05"),
    # Documents
    Alias(
        "train_file train_files train_data train_data_file train_path data data_path data_dir data_files dataset "
        "dataset_name dataset_path docs documents input input_dir input_file corpus corpus_path source text_file",
        "corpus.source",
        "the documents: a folder, a file, a git address or owner/name of a dataset on the Hub",
        "my_docs",
    ),
    Alias("dataset_config_name", "corpus.dataset_config", "the configuration of a dataset on the Hub", "default"),
    Alias("text_column text_column_name text_field text_key", "corpus.text", "the fields that hold the text", "text"),
    Alias("validation_split_percentage", "corpus.validation_fraction", _SPLIT, "0.05", ""),
    Alias("validation_split val_split eval_split test_size val_fraction", "corpus.validation_fraction", _SPLIT, "0.05"),
    Alias(
        "validation_file eval_file validation_data eval_dataset",
        "corpus.sources",
        "several sources; all documents of one with validation_fraction 1 are kept for validation",
        "{docs: {source: my_docs, validation_fraction: 0}, held_out: {source: other_docs, validation_fraction: 1}}",
        "{{docs: {{source: my_docs, validation_fraction: 0}}, held_out: {{source: {}, validation_fraction: 1}}}}",
    ),
    Alias("max_train_samples max_samples", "corpus.limit", "the first rows of a dataset on the Hub", "10000"),
    Alias("cache_dir cache data_cache_dir", "corpus.cache_dir", "the folder of prepared corpora", "my_cache"),
    Alias("dedup deduplication", "corpus.deduplicate", "near, exact or none", "near", ""),
    # Model and tokenizer
    Alias(
        "model_name_or_path model_name model model_id model_path base_model pretrained pretrained_model "
        "pretrained_model_name_or_path checkpoint_path",
        "model.name_or_path",
        "a checkpoint to continue from, or an architecture",
        "google-bert/bert-base-uncased",
    ),
    Alias("model_type config_name architecture", "model.name_or_path", "an architecture or a checkpoint", "bert"),
    Alias("model_revision", "model.revision", "a branch, tag or commit", "main"),
    Alias(
        "config_overrides hidden_size num_hidden_layers num_layers num_attention_heads intermediate_size "
        "max_position_embeddings hidden_dropout_prob attention_probs_dropout_prob dropout",
        "model.overrides",
        "changes of the model's configuration",
        "{hidden_size: 256}",
        "",
    ),
    Alias("tokenizer_name tokenizer tokenizer_path", "tokenizer.path", "a folder or a Hub name", "my_tokenizer"),
    Alias("vocab_size vocabulary_size", "tokenizer.train_vocab_size", "tokens of a tokenizer to train", "8000"),
    Alias("gradient_checkpointing activation_checkpointing", "model.checkpointing", "layers or none", "layers", ""),
    Alias("torch_compile compile", "model.compile", "regional, whole or none", "regional", ""),
    # Validation, checkpoints, export
    Alias(
        "eval_steps eval_every eval_interval val_check_interval validation_steps", "validation.every", "steps", "500"
    ),
    Alias(
        "evaluation_strategy eval_strategy do_eval validation evaluate_during_training",
        "validation.every",
        "the steps between validations; null for the start and the end only",
        "500",
        "",
    ),
    Alias("max_eval_samples eval_rows", "validation.max_rows", "the rows used while training", "2048"),
    Alias("early_stopping_patience early_stopping patience", "validation.patience", "validations in a row", "3"),
    Alias(
        "save_steps save_every save_interval checkpoint_interval checkpoint_steps", "checkpoint.every", "steps", "500"
    ),
    Alias("save_strategy checkpoint", "checkpoint.every", "the steps between checkpoints", "500", ""),
    Alias("save_total_limit keep_checkpoints", "checkpoint.keep_last", "the number of checkpoints to keep", "2"),
    Alias("resume_from_checkpoint resume resume_from", "checkpoint.resume", "auto, never or a checkpoint", "auto"),
    Alias("overwrite_output_dir overwrite", "checkpoint.resume", "never archives an existing run", "never", ""),
    Alias("load_best_model_at_end metric_for_best_model", "export.checkpoint", "newest or best", "best", ""),
    Alias("push_to_hub hub_model_id", "export.push_to_hub", "the repository to upload to", "name/model", ""),
    Alias("export_dtype save_dtype", "export.dtype", "the data type of the exported weights", "bfloat16"),
    Alias("export", "export.checkpoint", "newest, best or a checkpoint", "best"),
    # Output
    Alias("output out out_dir save_dir output_path run_dir run_name", "output_dir", "the run directory", "runs/mine"),
    Alias("data_seed random_seed", "seed", "the random seed of order, masks and weights", "0"),
    Alias("logging_steps log_steps log_every log_interval log_every_n_steps logging", "logging.every", "steps", "10"),
    Alias(
        "report_to trackers tracker wandb tensorboard tracking", "tracking.trackers", "trackers", "[tensorboard]", ""
    ),
    Alias("project project_name wandb_project experiment experiment_name", "tracking.project", "the project", "search"),
    Alias("group run_group wandb_group", "tracking.group", "the group of runs", "sweep"),
    Alias("tags wandb_tags", "tracking.tags", "the tags of the run", "[baseline]", ""),
    Alias("watchdog timeout", "watchdog.minutes", "minutes without progress that end a run", "30"),
    # Not of a run
    Alias("fp16 half", "", _PRECISION + "fp16"),
    Alias("bf16", "", _PRECISION + "bf16"),
    Alias("mixed_precision precision amp tf32", "", _PRECISION + "bf16"),
    Alias(
        "num_processes nproc_per_node nproc num_gpus n_gpu gpus devices world_size",
        "",
        _TOPOLOGY.format("number of processes") + ": --topology ddp --num_processes 2",
    ),
    Alias("num_machines nnodes num_nodes", "", _TOPOLOGY.format("machines") + ": --topology multinode"),
    Alias("device no_cuda use_cpu cpu", "", _TOPOLOGY.format("device") + ": --topology cpu"),
    Alias("deepspeed zero zero_stage", "", _TOPOLOGY.format("sharding") + ": --topology zero2"),
    Alias("fsdp fsdp2 sharding", "", _TOPOLOGY.format("sharding") + ": --topology fsdp2"),
    Alias("strategy distributed ddp accelerator", "", _TOPOLOGY.format("hardware") + ": --topology ddp"),
    Alias("do_train do_predict", "", "the job says it: mlm-dist train, or mlm-dist validate on a finished run"),
    Alias("per_device_eval_batch_size eval_batch_size", "", "validation takes the training micro-batch; remove it"),
    Alias(
        "num_workers dataloader_num_workers preprocessing_num_workers num_proc",
        "",
        "rows are read ahead without workers, and preparation uses each process; remove it",
    ),
    Alias("hub_token token", "", "log in with `hf auth login`, or set the variable HF_TOKEN; remove it"),
    Alias("local_rank", "", "the launcher sets the rank; remove it"),
)
_BY_NAME = {name: alias for alias in TABLE for name in alias.names.split()}


def find(name: str) -> Alias | None:
    """What to use instead of a name, with dashes or underscores, or of the last part of a dotted name."""
    whole = name.strip("-").replace("-", "_").lower()
    section, _, leaf = whole.rpartition(".")
    alias = _BY_NAME.get(leaf)
    if alias is None or not section:
        return alias
    # `optim.learning_rate` is clear; `logging.steps` is not, because every section may have steps.
    return alias if "_" in leaf or alias.key.startswith(f"{section}.") else None


def advice(name: str, value: str | None, *, is_flag: bool) -> str:
    """What to write instead of a name of the table, with the value that was given where it can be kept.

    Args:
        name: A name of `find`.
        value: The value that was given.
        is_flag: Whether it is a flag; otherwise it is a key in a file.
    """
    alias = find(name)
    assert alias is not None, name
    if not alias.key:
        return alias.meaning
    fitting = alias.pattern.format(value) if value and alias.pattern else alias.sample
    section, _, leaf = alias.key.rpartition(".")
    in_file = f"{section}: {{{leaf}: {fitting}}}" if section else f"{leaf}: {fitting}"
    written = f"--{alias.key} {_quoted(fitting)}" if is_flag else in_file
    return f"use '{alias.key}', {alias.meaning}: {written}"


def _quoted(value: str) -> str:
    """A value as a shell takes it, in the quotes that docs use."""
    return f'"{value}"' if " " in value and not set('"$`\\') & set(value) else shlex.quote(value)
