"""A masked-language model that computes logits at masked positions only, and the loss as a sum."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from mlm_dist.errors import ModelError
from mlm_dist.model import attention, buffers, dropout, norms, sparse_attention, trial
from mlm_dist.model.chunk_attention import ChunkAttention
from mlm_dist.model.inference import undone
from mlm_dist.model.layers import called_layers
from mlm_dist.model.loss import summed_cross_entropy
from mlm_dist.model.pooling import mean_of_spans

logger = logging.getLogger(__name__)


class MaskedLoss(NamedTuple):
    """The result of a forward pass, on the model's device.

    Args:
        loss_sum: Negative log-likelihood in nats, summed over the predicted tokens: a scalar in fp32.
        correct: [predicted] whether the most probable token is the true one, False at filled positions; empty in
            training.
        vectors: [pairs, 2, hidden], fp32, the vectors of pairs of texts, see `pooling.mean_of_spans`; None without.
    """

    loss_sum: torch.Tensor
    correct: torch.Tensor
    vectors: torch.Tensor | None = None


class MaskedLanguageModel(nn.Module):
    """A transformers masked-language model whose head is applied to the masked positions only.

    A hook replaces the hidden states of the base model by those at the masked positions. This works for every
    architecture whose head treats all positions alike. The constructor compares both on a small batch; if they differ,
    `masked_head` is False and the model computes all logits.

    Args:
        model: A transformers model with a `base_model` and a head that returns `logits`.
        masked_head: False to compute all logits and select the masked ones: same loss, more work.
        packed: Whether rows hold several chunks, which must not attend to each other.

    Raises:
        ModelError: The model fails on a small batch, also in the precision that `precision.in_precision` sets, or gives
            logits that are not finite; or rows are packed, and the architecture cannot keep chunks apart.
    """

    def __init__(self, model: Any, *, masked_head: bool = True, packed: bool = False) -> None:
        super().__init__()
        self.model = model
        self.masked_head = False
        self.cross_entropy = summed_cross_entropy  # may be replaced by a compiled one
        self._positions: torch.Tensor | None = None
        self._spans: torch.Tensor | None = None
        self._vectors: torch.Tensor | None = None
        self._masks = dropout.RowMasks()
        dropout.install(model, self._masks)
        attention.install(model, self._masks)
        norms.lower_norms(model)
        with called_layers(model) as called:
            self._trial_length = trial.require_forward(model)
        buffers.require_constant(model, self._trial_length)
        self._chunks = ChunkAttention(model, packed=packed)
        if model.base_model is not model:
            model.base_model.register_forward_hook(self._read_states)
        if masked_head and model.base_model is not model:
            differs = trial.masked_head_fault(self, self._trial_length)
            self.masked_head = differs is None
            if differs is not None:
                logger.info("logits are computed at all positions, which is slower: %s", differs)
        # FSDP2 shards modules of these classes one by one. transformers' own value names embeddings for some
        # architectures, and classes that a masked-language model lacks for others.
        self._no_split_modules = sorted(called)
        # Tied parameters count once. Computed here, because a sharded parameter does not know its full size.
        self.num_parameters = sum(parameter.numel() for parameter in self.parameters())
        self.train()  # a loaded checkpoint is in evaluation mode

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        positions: torch.Tensor,
        labels: torch.Tensor,
        cu_seq_lens: torch.Tensor | None = None,
        row_keys: torch.Tensor | None = None,
        *attention: Any,
    ) -> MaskedLoss:
        """Loss of one micro-batch.

        Args:
            input_ids: [rows, length] with masks in place.
            attention_mask: [rows, length], 1 for tokens and 0 for padding; None if rows have no padding or are packed.
            positions: [predicted] positions of the predicted tokens in the flattened rows.
            labels: [predicted] their true tokens; -100, the loss's ignore_index, for positions that fill the list.
            cu_seq_lens: [chunks + 1], int32, the first position of each chunk in the flattened rows, and their end;
                padding is a chunk too. None if no row holds several chunks.
            row_keys: [rows], int64, seeds of each row's dropout; None uses torch's global generator.
            attention: `longest`, tokens of the longest chunk, or more, by default the length of the rows; `is_causal`,
                whether each token attends to itself and those before it in its chunk only, by default False, see
                `require_causal`; and `spans`, [pairs, 2, 2], int64, the positions of the texts in the flattened rows
                whose vectors are wanted, those of one row side by side, by default none, see `require_vectors`.
        """
        self._masks.begin(row_keys)
        self._spans = attention[2] if len(attention) > 2 else None
        return self.loss(input_ids, attention_mask, positions, labels, cu_seq_lens, *attention[:2])

    def loss(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        positions: torch.Tensor,
        labels: torch.Tensor,
        cu_seq_lens: torch.Tensor | None = None,
        longest: int | None = None,
        is_causal: bool = False,
    ) -> MaskedLoss:
        """As `forward`, after the seeds of dropout are set; model.compile: whole compiles this function."""
        # [predicted, vocabulary]
        logits = self.logits(input_ids, attention_mask, positions, cu_seq_lens, longest, is_causal)
        vectors, self._spans, self._vectors = self._vectors, None, None
        loss_sum = self.cross_entropy(logits, labels)
        # Training does not report accuracy, so it saves the argmax over the vocabulary.
        correct = labels.new_zeros(0, dtype=torch.bool) if self.training else logits.argmax(-1) == labels
        return MaskedLoss(loss_sum, correct, vectors)

    def logits(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        positions: torch.Tensor,
        cu_seq_lens: torch.Tensor | None = None,
        longest: int | None = None,
        is_causal: bool = False,
    ) -> torch.Tensor:
        """[predicted, vocabulary] logits at `positions`."""
        sparse_attention.fit(self.model, input_ids.shape[1])
        arguments = self._chunks.arguments(input_ids, attention_mask, cu_seq_lens, longest, is_causal)
        self._positions = positions if self.masked_head else None
        try:
            scores: torch.Tensor = self.model(**arguments).logits
        finally:
            self._positions = None
        scores = scores.flatten(0, 1)
        return scores if self.masked_head else scores[positions]

    def require_causal(self) -> None:
        """Make sure that attention can be causal, before the first causal micro-batch; others stay as they are.

        Raises:
            ModelError: A token would see tokens behind it.
        """
        self._chunks.require_causal()

    def require_vectors(self) -> None:
        """Make sure that texts have vectors.

        Raises:
            ModelError: The model has no encoder apart from its head.
        """
        if self.model.base_model is self.model:
            raise ModelError(
                f"model.name_or_path: a {self.model.config.model_type} model has no encoder apart from its head, so "
                "texts have no vectors; use another model for objective contrastive"
            )

    @contextlib.contextmanager
    def kept_positions(self, positions: torch.Tensor) -> Iterator[None]:
        """Inside, the model computes logits at these positions only, whatever `masked_head` is."""
        self._positions = positions
        try:
            yield
        finally:
            self._positions = None

    def has_unused(self) -> bool:
        """Whether a backward pass leaves a parameter without a gradient; existing gradients are lost."""
        device = next(self.parameters()).device
        length = self._trial_length
        input_ids = trial.tokens(self.model.config, 2, length).to(device)
        positions, labels = torch.tensor([1 % length, length], device=device), torch.tensor([1, 2], device=device)
        with undone(self.model), torch.enable_grad():
            self.model.train()
            self(input_ids, None, positions, labels).loss_sum.backward()
        unused = any(parameter.requires_grad and parameter.grad is None for parameter in self.parameters())
        self.zero_grad(set_to_none=True)
        return unused

    def _read_states(self, module: nn.Module, arguments: Any, output: Any) -> Any:
        """Pool the vectors of texts, and keep the masked positions only."""
        hidden = output[0]  # [rows, length, hidden]
        if self._spans is not None:
            self._vectors = mean_of_spans(hidden, self._spans)
        if self._positions is None:
            return None
        kept = hidden.flatten(0, 1).index_select(0, self._positions).unsqueeze(0)  # [1, predicted, hidden]
        if isinstance(output, tuple):
            return (kept, *output[1:])
        output[next(iter(output.keys()))] = kept
        return output
