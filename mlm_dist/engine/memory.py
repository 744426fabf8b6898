"""Memory of a run on each device, from formulas: nothing is allocated, and no process group is needed."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any

from mlm_dist.engine.activation_memory import activations
from mlm_dist.engine.launch import BYTES, Launch
from mlm_dist.model.layers import encoder_layers
from mlm_dist.optim import optimizers

# The rest of a GPU holds its context, workspaces of libraries, and gaps between allocations.
GPU_SHARE, GPU_CONTEXT = 0.9, 512 << 20
# The rest of a host is for other programs. docs/topologies.md compares estimates with resident memory: a process has
# libraries, and gaps in proportion to its activations.
HOST_SHARE, HOST_GAPS = 0.9, 1.5
LIBRARIES = 550 << 20
BUCKET = 25_000_000  # elements DeepSpeed gathers before it reduces them, where no JSON says otherwise
# Names that architectures give to the fields of their configurations.
_HIDDEN = ("hidden_size", "d_model", "dim", "emb_dim", "d_latents")
_LAYERS = ("num_hidden_layers", "n_layers", "num_layers", "encoder_layers")
_INTERMEDIATE = ("intermediate_size", "hidden_dim", "d_inner", "feed_forward_size", "ffn_dim")
_HEADS = ("num_attention_heads", "n_heads", "n_head", "num_heads", "encoder_attention_heads")
_GATED = {"modernbert", "nomic_bert", "eurobert"}  # their feed-forward layers have a gate
_ATTENTION_DROPOUTS = ("attention_probs_dropout_prob", "attention_dropout", "attention_probs_dropout")


@dataclass(frozen=True)
class Shape:
    """The properties of a model that its memory depends on.

    Args:
        parameters: Number of parameters, tied ones once.
        layers: Transformer layers.
        hidden: Width of the residual stream.
        intermediate: Width inside a feed-forward layer.
        heads: Attention heads.
        vocabulary: Tokens.
        gated: Whether feed-forward layers have a gate.
        dropout: Whether there is dropout outside attention.
        fused: Whether attention has a fused kernel, which keeps little or nothing of its scores.
        on_cpu: Whether it runs on the CPU, with custom kernels for attention and norms.
        attention_dropout: Whether there is dropout of attention probabilities.
        slides: Whether some layers attend to a window around each token only.
        kernel: Whether the device has the variable-length kernel, which reads no mask, in the precision of the run.
    """

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    heads: int
    vocabulary: int
    gated: bool
    dropout: bool
    fused: bool
    on_cpu: bool
    attention_dropout: bool = False
    slides: bool = False
    kernel: bool = False


@dataclass(frozen=True)
class Memory:
    """Bytes per device at the peak of a step.

    Args:
        weights: The weights, and their copies in other precisions.
        gradients: The gradients, and the buckets they are exchanged in.
        moments: The optimizer's moments.
        activations: Tensors that the forward pass keeps for the backward pass, logits included; on the CPU with the
            gaps between blocks of memory.
        host: Bytes of host memory per process that DeepSpeed offloads to.
        libraries: Bytes of a process on the CPU before it has a model: the interpreter and the libraries.
        checkpointed: The activations with `model.checkpointing: layers`.
    """

    weights: int
    gradients: int
    moments: int
    activations: int
    host: int
    libraries: int = 0
    checkpointed: int = 0

    @property
    def total(self) -> int:
        """Sum of the bytes on the device."""
        return self.weights + self.gradients + self.moments + self.activations + self.libraries

    @property
    def total_if_checkpointed(self) -> int:
        """The same sum with activation checkpointing."""
        return self.total - self.activations + self.checkpointed


def shape_of(architecture: Any, vocab_size: int | None = None, *, on_cpu: bool = False, kernel: bool = False) -> Shape:
    """The shape of a transformers configuration; no weight is allocated.

    Args:
        architecture: The configuration.
        vocab_size: Number of tokens, if the tokenizer is still to be trained.
        on_cpu: Whether it runs on the CPU.
        kernel: See `Shape`.
    """
    import torch
    from transformers import AutoModelForMaskedLM

    found = copy.deepcopy(architecture)
    found.vocab_size = vocab_size or found.vocab_size
    with torch.device("meta"):
        model = AutoModelForMaskedLM.from_config(found)
    hidden = int(_number(found, *_HIDDEN)) or int(model.get_input_embeddings().weight.shape[-1])
    return Shape(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        layers=int(_number(found, *_LAYERS)) or max(1, len(encoder_layers(model))),
        hidden=hidden,
        intermediate=int(_number(found, *_INTERMEDIATE) or 4 * hidden),
        heads=max(1, int(_number(found, *_HEADS))),  # FNet has none
        vocabulary=int(found.vocab_size),
        gated=found.model_type in _GATED,
        dropout=_number(found, "hidden_dropout_prob", "dropout", "hidden_dropout") > 0,
        fused=bool(getattr(model, "_supports_sdpa", False)),
        on_cpu=on_cpu,
        attention_dropout=max(_number(found, name) for name in _ATTENTION_DROPOUTS) > 0,
        slides="sliding_attention" in (getattr(found, "layer_types", None) or ()),
        kernel=kernel,
    )


@dataclass(frozen=True)
class Settings:
    """What the memory of a step depends on besides the model and the launch.

    Args:
        max_length: Tokens per row.
        predicted: Largest fraction of the positions at which logits are computed.
        optimizer: Name of the optimizer.
        freeze_embeddings: Whether the token embeddings are not trained.
        trainable_layers: Layers that are trained, with the head alone; None if everything is.
        checkpointing: `model.checkpointing`: none, or layers.
        is_packed: Whether rows hold several chunks, which masks keep apart.
        ema: Whether the optimizer keeps an exponential moving average of the weights.
    """

    max_length: int
    predicted: float
    optimizer: str
    freeze_embeddings: bool
    trainable_layers: int | None = None
    checkpointing: str = "none"
    is_packed: bool = False
    ema: bool = False


def estimate(settings: Settings, shape: Shape, launch: Launch, micro_size: int) -> Memory:
    """Memory of a step with micro-batches of `micro_size` rows; see `states` and `activations`."""
    weights, gradients, moments, host = states(settings, shape, launch)
    on_cpu, layers = launch.device.kind == "cpu", dataclasses.replace(settings, checkpointing="layers")
    gaps = HOST_GAPS if on_cpu else 1
    kept, checkpointed = (
        activations(how, shape, launch.precision, micro_size, gaps=gaps) for how in (settings, layers)
    )
    return Memory(
        *(weights, gradients, moments),
        activations=kept,
        host=host,
        libraries=LIBRARIES if on_cpu else 0,
        checkpointed=checkpointed,
    )


def states(settings: Settings, shape: Shape, launch: Launch) -> tuple[int, int, int, int]:
    """Bytes of weights, gradients and moments on each device, and of what is offloaded to the host.

    With N parameters, T of them trained, on P processes, after Rajbhandari et al., 2020 (ZeRO,
    https://arxiv.org/abs/1910.02054, section 3): AdamW keeps 8 T bytes of moments in fp32; for others see
    `optimizers.moment_bytes`. Plain and DDP runs keep weights (4 N) and gradients (4 T) in fp32, and autocast's 16-bit
    copies of the weights (2 N); DDP's buckets are the gradients. DeepSpeed computes on e N bytes of weights and e T of
    gradients, e being 2 or 4, and updates fp32 copies (4 T), which it divides by P with the moments; stage 2 divides
    the gradients too, and stage 3 the weights. Two of its buckets exist at once. FSDP2 divides all fp32 states by P.
    Embeddings and head stay gathered during a micro-batch, as do two layers at a time, and the gradients of the largest
    of these groups exist in both precisions before they are reduced.
    """
    n, p, e = shape.parameters, launch.world_size, BYTES[launch.precision]
    per_layer = shape.hidden * (4 * shape.hidden + (3 if shape.gated else 2) * shape.intermediate)
    layers = shape.layers if settings.trainable_layers is None else settings.trainable_layers
    is_frozen = settings.freeze_embeddings or settings.trainable_layers is not None
    trained = n - (shape.vocabulary * shape.hidden if is_frozen else 0) - (shape.layers - layers) * per_layer
    hidden = layers * per_layer
    moments = optimizers.moment_bytes(settings.optimizer, trained, hidden, ema=settings.ema)
    if launch.sharding == "fsdp2":
        root = max(0, n - shape.layers * per_layer)  # embeddings and head
        gathered, reduced = e * min(n, root + 2 * per_layer), (4 + e) * min(trained, max(root, per_layer))
        return 4 * n // p + gathered, 4 * trained // p + reduced, moments // p, 0
    if launch.sharding != "zero":
        return 4 * n + (e if e < 4 else 0) * n, 4 * trained, moments, 0
    zero = launch.deepspeed.get("zero_optimization", {})
    bucket = zero.get("reduce_bucket_size", BUCKET)
    bucket = 2 * e * min(trained, int(bucket) if isinstance(bucket, int | float) else BUCKET)
    master, moments, weights = 4 * trained // p, moments // p, e * n // (p if launch.stage == 3 else 1)
    gradients = e * trained // (p if launch.stage >= 2 else 1)
    host = 0
    if "optimizer" in launch.offload:
        host += master + moments + gradients
        master = moments = gradients = 0
    if "param" in launch.offload:
        host += weights
        weights = 2 * e * n // max(shape.layers, 1)
    return weights + master, gradients + bucket, moments, host


def unsharded(found: Memory, shape: Shape, *, ema: bool = False) -> int:
    """Bytes of the same step in one process without sharding, at most: weights, 16-bit copies, gradients, moments."""
    return (4 + 2 + 4 + 8 + 4 * ema) * shape.parameters + found.activations + found.libraries


def available(launch: Launch) -> int:
    """Bytes of each device that a run may fill; on the CPU the processes share the memory."""
    if launch.device.kind != "cpu":
        return int(GPU_SHARE * launch.device.memory) - GPU_CONTEXT
    return int(HOST_SHARE * launch.device.memory) // launch.local_world_size


def most_rows(settings: Settings, shape: Shape, launch: Launch) -> int:
    """The largest micro-batch that fits a device, in rows; at least 1, whether or not it fits."""
    one = estimate(settings, shape, launch, 1)
    free = available(launch) - (one.total - one.activations)
    return max(1, free // one.activations)


def _number(found: Any, *names: str) -> float:
    """The first of these fields that is a number over 0; 0 if there is none."""
    values = (getattr(found, name, None) for name in names)
    return next((float(value) for value in values if isinstance(value, int | float) and value > 0), 0.0)
