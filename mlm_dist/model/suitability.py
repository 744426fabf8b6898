"""What an architecture can do here, tried on a small copy of it: whether it runs, and how it takes packed rows."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mlm_dist.errors import ModelError
from mlm_dist.model import attention, causality, dropout, norms, packed_attention, sparse_attention, trial
from mlm_dist.model.packed_attention import STYLES, MaskStyle, PackedAttention
from mlm_dist.model.precision import Precision, in_precision
from mlm_dist.model.small_copy import narrow_configuration, small_configuration, small_model
from mlm_dist.spec import RowsSpec
from mlm_dist.spec.corpus import PACKED


class Suitability(NamedTuple):
    """What a trial of an architecture has shown.

    Args:
        style: How it takes the mask of packed rows; None if chunks of a row affect each other.
        reason: Why they do; empty if they do not.
    """

    style: MaskStyle | None
    reason: str


def require_supported(config: Any) -> None:
    """Refuse architectures whose masked-language model is not an encoder of text, or cannot be loaded as it was saved.

    Raises:
        ModelError: The architecture is one of them.
    """
    name = f"model.name_or_path: {config.model_type}"
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{name} is an encoder-decoder: it predicts tokens from left to right and would see masked text where it "
            "expects the true one; choose an encoder such as bert, roberta or modernbert"
        )
    if getattr(config, "text_config", None) is not None:
        raise ModelError(
            f"{name} reads images as well as text; choose an encoder of text, such as its text model "
            f"({config.text_config.model_type})"
        )
    if config.model_type == "funnel":
        raise ModelError(
            f"{name} cannot be loaded as it was trained: transformers sets the embedding of its padding token, a row "
            "of its output matrix, to 0 whenever it loads one; choose another architecture"
        )


def suitability(config: Any, max_length: int | None = None) -> Suitability:
    """Try an architecture in fp32 on a small copy of it, with random weights.

    Args:
        config: The transformers configuration of a masked-language model.
        max_length: Tokens per row, if they are known; BigBird computes long rows in another way.

    Raises:
        ModelError: It cannot be trained here, with the reason.
    """
    require_supported(config)
    if config.model_type == "xmod" and config.default_language is None:
        languages = ", ".join(config.languages)
        raise ModelError(f"model.overrides.default_language: an xmod model needs its language; set it to {languages}")
    try:
        small = small_configuration(config)
    except Exception as error:  # the library raises many kinds
        raise ModelError(
            f"model.overrides: {config.model_type} cannot be built with them ({trial.first_line(error)})"
        ) from None
    lengths = (trial.LENGTH, max_length) if max_length is not None else ()
    least_length = _least_length(config, max_length)
    narrow = narrow_configuration(small)
    with contextlib.suppress(ModelError):  # only a copy with all fields may refuse
        if narrow is not None and _runs(_Key(narrow), lengths, Precision()):
            found = _first(_Key(narrow), STYLES, least_length)
            if found.style is not None:
                return found
    _runs(_Key(small), lengths, Precision())
    return _first(_Key(small), STYLES, least_length)


def takes(config: Any, styles: Sequence[MaskStyle]) -> MaskStyle | None:
    """The first of these styles that keeps chunks apart in a small copy of an architecture; None if none does."""
    return _first(_Key(small_configuration(config)), tuple(styles), 0).style


def causal_suitability(config: Any, *, packed: bool, max_length: int | None = None) -> Suitability:
    """How an architecture takes the mask of causal attention, tried as in `suitability`.

    Args:
        config: The transformers configuration of a masked-language model.
        packed: Whether rows hold several chunks; the style is then that of `suitability`.
        max_length: Tokens per row, if they are known.
    """
    styles: tuple[MaskStyle, ...] = STYLES
    if packed:
        style, why = suitability(config, max_length)
        if style is None:
            return Suitability(None, why)
        styles = (style,)
    trial_of = functools.partial(causality.fault, packed=packed)
    return _first_of(_Key(small_configuration(config)), styles, trial_of, _least_length(config, max_length))


def require_suited(config: Any, rows: RowsSpec, precision: Precision, *, causal: bool = False) -> None:
    """Try an architecture with the rows and in the precision of a run.

    Args:
        config: The transformers configuration of a masked-language model.
        rows: The rows.
        precision: The precision.
        causal: Whether attention must be causal in some step.

    Raises:
        ModelError: It cannot be trained so, with the reason and a remedy.
    """
    style, why = suitability(config, rows.max_length)
    if rows.mode in PACKED and style is None:
        raise packing_error(config, why)
    if causal:
        style, why = causal_suitability(config, packed=rows.mode == "pack", max_length=rows.max_length)
        if style is None:
            raise causal_error(config, why)
    if precision.name != "fp32":
        small = small_configuration(config)
        narrow, lengths = narrow_configuration(small), (trial.LENGTH, rows.max_length)
        with contextlib.suppress(ModelError):
            if narrow is not None and _runs(_Key(narrow), lengths, precision):
                return
        _runs(_Key(small), lengths, precision)


class _Key:
    """A small configuration, equal to others with the same fields."""

    def __init__(self, config: Any) -> None:
        self.config, self._text = config, config.to_json_string(use_diff=False)

    def __hash__(self) -> int:
        return hash(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and other._text == self._text


@functools.cache
def _runs(small: _Key, lengths: tuple[int, ...], precision: Precision) -> bool:
    """True, or a ModelError that says why the architecture cannot be trained."""
    with in_precision(precision):
        trial.require_forward(_installed(small_model(small.config)), lengths, backward=precision.name == "fp32")
    return True


@functools.cache
def _first(small: _Key, styles: tuple[MaskStyle, ...], least_length: int) -> Suitability:
    return _first_of(small, styles, packed_attention.fault, least_length)


def _first_of(
    small: _Key, styles: tuple[MaskStyle, ...], trial_of: Callable[..., str | None], least_length: int
) -> Suitability:
    """The first style that a trial finds no fault with."""
    with in_precision(Precision()):  # rows are the same in every precision
        model = _installed(small_model(small.config))
        reasons = []
        for style in styles:
            packed = PackedAttention(model, style)
            found = trial_of(model, packed, least_length=least_length)
            if found is None:
                return Suitability(style, "")
            packed.remove()
            reasons.append(found)
    leaks = [one for one in reasons if one.startswith(("a chunk", "a token"))]
    return Suitability(None, (leaks or reasons)[0])


def _installed(model: Any) -> Any:
    """A model with dropout, attention and norms as `MaskedLanguageModel` has them."""
    masks = dropout.RowMasks()
    dropout.install(model, masks)
    attention.install(model, masks)
    norms.lower_norms(model)
    return model


def _least_length(config: Any, max_length: int | None) -> int:
    """Tokens that a row needs in a trial, so that the computation is that of rows of `max_length` tokens."""
    longest_full = sparse_attention.longest_full(config)
    if longest_full is None or max_length is None or max_length <= longest_full:
        return 0
    return longest_full + int(config.block_size)


def packing_error(config: Any, why: str) -> ModelError:
    """The error for packed rows of an architecture that cannot keep their chunks apart."""
    return ModelError(
        f"rows.mode: a {config.model_type} model cannot keep the chunks of a packed row apart ({why}); use "
        "--rows.mode chunk, which puts each chunk into a row of its own"
    )


def causal_error(config: Any, why: str) -> ModelError:
    """The error for attention of an architecture that cannot be causal."""
    return ModelError(
        f"objective: attention of a {config.model_type} model cannot be made causal ({why}); use --objective "
        "masked_lm, or an architecture such as bert, roberta or modernbert"
    )
