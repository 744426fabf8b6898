"""Tiny configurations of all architectures in transformers' masked-LM mapping, as overrides that a user would write."""

from __future__ import annotations

from typing import Any

from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

LENGTH = 32  # tokens per row
NAMES = sorted(MODEL_FOR_MASKED_LM_MAPPING_NAMES)
# In `make test`; the others are slow.
QUICK = (
    *("albert", "bert", "deberta-v2", "distilbert", "electra"),
    *("esm", "eurobert", "modernbert", "nomic_bert", "roberta"),
)
# Set wherever a configuration has the field; the first name of a field in each line counts.
GENERIC: dict[tuple[str, ...], int] = {
    ("hidden_size", "d_model", "dim"): 32,
    ("num_hidden_layers",): 2,
    ("num_attention_heads",): 2,
    ("num_key_value_heads",): 2,
    ("head_dim",): 16,
    ("intermediate_size", "hidden_dim"): 48,
    ("embedding_size", "embedding_rank"): 32,
    ("entity_vocab_size",): 50,
}
SPECIAL: dict[str, dict[str, Any]] = {
    "funnel": {"block_sizes": [1, 1], "d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 48},
    "longformer": {"attention_window": [8, 8]},
    "mobilebert": {"embedding_size": 16, "intra_bottleneck_size": 32, "true_hidden_size": 32},
    "modernbert": {"local_attention": 8},
    "neomme": {"num_hidden_layers": 3},
    "perceiver": {
        **{"d_model": 32, "d_latents": 32, "num_latents": 8, "num_self_attends_per_block": 2},
        **{"num_self_attention_heads": 2, "num_cross_attention_heads": 2, "max_position_embeddings": LENGTH},
    },
    "reformer": {
        **{"hidden_size": 32, "attention_head_size": 16, "num_attention_heads": 2, "feed_forward_size": 48},
        **{"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [4, 8], "max_position_embeddings": LENGTH},
        **{"attn_layers": ["local", "lsh"], "local_attn_chunk_length": 8, "lsh_attn_chunk_length": 8, "hash_seed": 1},
    },
    "roc_bert": {"pronunciation_vocab_size": 50, "shape_vocab_size": 50},
    "ultrabert": {"num_hidden_layers": 3, "sliding_window": 8, "prediction_head_size": 32},
    "xmod": {"default_language": "en_XX"},
}
WHOLE = {"funnel", "perceiver", "reformer"}  # the fields above are all that is needed
AS_THEY_ARE = {"bart", "mbart", "modernvbert", "mvp", "ultravbert"}  # refused before anything is built


def overrides(name: str) -> dict[str, Any]:
    """The value of model.overrides for a tiny model of an architecture."""
    from transformers import CONFIG_MAPPING

    if name in AS_THEY_ARE:
        return {}
    config, found = CONFIG_MAPPING[name](), {}
    known = {*vars(config), *config.attribute_map}
    for fields, value in GENERIC.items() if name not in WHOLE else ():
        if field := next((one for one in fields if one in known), None):
            found[field] = value
    return found | SPECIAL.get(name, {})
