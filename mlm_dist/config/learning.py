"""Sections of the config about masks, the model, the batch and the optimizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from mlm_dist.config.checks import Section
from mlm_dist.config.duration import MOST_OF, Duration
from mlm_dist.errors import ConfigError

MAX_ROWS = 1 << 24  # of a batch
MOST_THETA = 10**9


@dataclass(frozen=True)
class MaskingConfig(Section):
    """Which tokens the model predicts, and what it sees instead.

    Args:
        probability: Probability of each token to be predicted in training. Validation always uses 0.15.
        final_probability: The probability at the end of the run; it changes linearly with the samples. null keeps it
            constant.
        unit: What is selected together: single tokens, whole words, or spans of one to ten whole words.
        mask: Fraction of the predicted tokens shown as the mask token.
        random: Fraction of the predicted tokens shown as a random token; the rest is shown unchanged.
    """

    SECTION = "masking"

    probability: float = 0.3
    final_probability: float | None = None
    unit: Literal["token", "word", "span"] = "token"
    mask: float = 0.8
    random: float = 0.1

    @property
    def highest_probability(self) -> float:
        """The largest probability of the run."""
        return max(self.probability, self.final_probability or 0.0)

    def check(self) -> None:
        """See `Section.check`."""
        self.require("probability", 0 < self.probability < 1, "must be over 0 and under 1")
        final = self.final_probability
        self.require("final_probability", final is None or 0 < final < 1, "must be over 0 and under 1, or null")
        self.require("mask", 0 <= self.mask <= 1, "must be from 0 to 1")
        self.require("random", 0 <= self.random <= 1 - self.mask + 1e-9, "must be from 0 to 1 - masking.mask")


@dataclass(frozen=True)
class ContrastiveConfig(Section):
    """What the objectives contrastive and contrastive_masked_lm learn from pairs of texts.

    Args:
        temperature: Cosine similarities are divided by it. A lower one weights the most similar wrong passages more.
    """

    SECTION = "contrastive"

    temperature: float = 0.05

    def check(self) -> None:
        """See `Section.check`."""
        self.require("temperature", 0.001 <= self.temperature <= 10, "must be from 0.001 to 10")


@dataclass(frozen=True)
class ModelConfig(Section):
    """The encoder.

    Args:
        name_or_path: A checkpoint (folder or Hub name) to continue from, or an architecture to start from scratch: a
            transformers model type such as bert or roberta, or a small shape: modernbert-tiny, bert-tiny,
            bert-mini, bert-small. A folder may also be a run directory or a checkpoint of a run.
        revision: Branch, tag or commit of the checkpoint on the Hub, such as one from before the decay of its learning
            rate; by default the main branch.
        from_scratch: Start from random weights even if name_or_path is a checkpoint; its configuration is kept.
        init_from: A smaller checkpoint, or one with another tokenizer, whose weights the model starts from. It must be
            of the same architecture; name it in name_or_path as well to keep its configuration. Layers are repeated,
            wider ones tiled; tokens that both tokenizers have keep their embedding. Its tokenizer is used unless the
            config names or trains one.
        overrides: Fields of the model's configuration to change, such as {hidden_size: 256}.
        masked_head: Compute logits at masked positions only: same loss, less work.
        compile: Use torch.compile, which takes some time before the first step. regional compiles one layer and reuses
            it for all layers; whole compiles the model from tokens to loss, which takes longer and may save more. The
            loss stays the same. By default regional on a CUDA GPU where triton and a C compiler are installed, unless
            weights are sharded by ZeRO-3; else none.
        checkpointing: Activation checkpointing. layers keeps the input of each encoder layer only and computes the rest
            again in the backward pass: far less memory, about a third more time. The loss stays the same.
        freeze_embeddings: Do not train the token embeddings, nor the output matrix tied to them: for small corpora,
            where most tokens are too rare to learn from. Excludes tokenizer.add_domain_tokens.
        trainable_layers: Train this many of the last layers and the head only. Embeddings, and an output matrix tied to
            them, are not trained. null trains everything. Excludes tokenizer.add_domain_tokens.
        rope_theta: Base of the rotary angles of the layers with full attention, such as 160000 for longer rows; null
            keeps that of the architecture or the checkpoint.
    """

    SECTION, FREE_TEXT = "model", ("overrides",)

    name_or_path: str = "modernbert-tiny"
    revision: str | None = None
    from_scratch: bool = False
    init_from: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    masked_head: bool = True
    compile: Literal["none", "regional", "whole"] | None = None
    checkpointing: Literal["none", "layers"] = "none"
    freeze_embeddings: bool = False
    trainable_layers: int | None = None
    rope_theta: float | None = None

    def check(self) -> None:
        """See `Section.check`."""
        self.require_range("trainable_layers", 1, or_null=True)
        self.require_range("rope_theta", 1, MOST_THETA, or_null=True)
        if self.from_scratch and self.init_from is not None:
            raise ConfigError("model.from_scratch and model.init_from exclude each other; give one of them")


@dataclass(frozen=True)
class BatchConfig(Section):
    """The batch, defined over all processes; gradient accumulation follows from it.

    Args:
        global_size: Rows per step, over all processes.
        micro_size: Rows per process and forward pass. By default the largest divisor that fits the memory, with at most
            65,536 tokens. If it runs out of memory before the first step, it is halved.
        initial_size: Rows of the first steps, growing to global_size in 16 stages of equally many tokens.
        initial_length: Tokens of the first rows: each row is cut into pieces of this length, which double until they
            are whole rows. rows.max_length must be a multiple of it by a power of two. Early steps cost less.
        ramp_tokens: Tokens over which both grow, counted as positions in rows of rows.max_length.
    """

    SECTION = "batch"

    global_size: int = 16
    micro_size: int | None = None
    initial_size: int | None = None
    initial_length: int | None = None
    ramp_tokens: int | None = None

    def check(self) -> None:
        """See `Section.check`."""
        self.require_range("global_size", 1, MAX_ROWS)
        self.require_range("micro_size", 1, MAX_ROWS, or_null=True)
        is_smaller = self.initial_size is None or 1 <= self.initial_size <= self.global_size
        self.require("initial_size", is_smaller, f"must be from 1 to batch.global_size, which is {self.global_size}")
        self.require_range("ramp_tokens", 1, 10**15, or_null=True)
        given = [name for name in ("initial_size", "initial_length") if getattr(self, name) is not None]
        if given and self.ramp_tokens is None:
            raise ConfigError(f"batch.{given[0]} needs the number of tokens over which it grows; set batch.ramp_tokens")
        if self.ramp_tokens is not None and not given:
            raise ConfigError("batch.ramp_tokens has no effect; set batch.initial_size or batch.initial_length as well")


@dataclass(frozen=True)
class OptimConfig(Section):
    """The optimizer and the length of the run.

    Args:
        name: adamw; stableadamw, which shortens a step if the gradients are unexpectedly large; or muon, which
            orthogonalizes the steps of the hidden layers' matrices and uses adamw for all other parameters.
            stableadamw needs the extra `optimizers`; stableadamw and muon cannot be sharded.
        lr: Peak learning rate; by default 5e-5 from a checkpoint and 0.384 / hidden_size from scratch.
        layer_lr_decay: The learning rate of each layer is this fraction of the one above it; the head has the full
            rate, the embeddings the smallest. 1.0 is the same rate for all.
        weight_decay: Decoupled weight decay, of matrices only.
        betas: The two decay rates of adamw and stableadamw.
        eps: Epsilon of adamw and stableadamw.
        max_grad_norm: Gradients with a larger global norm are scaled down to it; null turns clipping off.
        duration: Length of the run: "8 epochs" (fractions are allowed), "20000 steps", "2 hours" or "10B tokens". Hours
            run from the first step to the last, validation and checkpoints included, over all resumes of a run; the
            schedule ends with them, however fast the machine is.
        warmup: Steps over which the learning rate rises from zero; a value under 1 is a fraction of all steps.
        schedule: The learning rate after warm-up. linear and cosine fall to the floor, sqrt as 1 - sqrt, constant
            stays, wsd stays and falls as 1 - sqrt over the last fifth.
        floor: What the schedule falls to, as a fraction of lr.
        ema_decay: Keep an exponential moving average (EMA) of the weights with this decay, such as 0.999: one more
            value in fp32 per trained parameter, in memory and in checkpoints. In early steps the decay is smaller. The
            average is validated at the end of the run; export.average: ema exports it. Training is not affected. null
            keeps none.
    """

    SECTION = "optim"

    name: str = "adamw"
    lr: float | None = None
    layer_lr_decay: float = 1.0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    max_grad_norm: float | None = 1.0
    duration: str = "8 epochs"
    warmup: float = 0.06
    schedule: Literal["linear", "cosine", "sqrt", "wsd", "constant"] = "linear"
    floor: float = 0.0
    ema_decay: float | None = None

    def check(self) -> None:
        """See `Section.check`."""
        self.require_over_zero("lr")
        self.require_range("weight_decay", 0)
        self.require("betas", all(0 <= beta < 1 for beta in self.betas), "must both be at least 0 and under 1")
        self.require_over_zero("eps")
        self.require_over_zero("max_grad_norm", or_null=True)
        try:
            duration = Duration.parse(self.duration)
        except ValueError:
            expected = "must be like '8 epochs', '20000 steps', '2 hours' or '10B tokens'"
            self.require("duration", False, expected)
        else:
            self.require(
                "duration",
                duration.value <= MOST_OF[duration.unit],
                f"must be at most {MOST_OF[duration.unit]:,} {duration.unit}",
            )
        self.require("layer_lr_decay", 0 < self.layer_lr_decay <= 1, "must be over 0 and at most 1")
        self.require_range("warmup", 0)
        self.require("floor", 0 <= self.floor <= 1, "must be from 0 to 1")
        self.require(
            "ema_decay", self.ema_decay is None or 0 < self.ema_decay < 1, "must be over 0 and under 1, or null"
        )
