"""Documents to compare, without files."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress

import numpy as np
import pyarrow as pa

from mlm_dist.corpus.compared_documents import Documents
from mlm_dist.corpus.signatures import signatures
from mlm_dist.corpus.text_keys import KEY_BYTES, text_key


def documents(texts: Sequence[str], ids: Sequence[str] | None = None) -> Documents:
    """What is known of some texts; their ids are their numbers by default."""
    return with_keys([*map(text_key, texts)], signatures(texts), texts, ids)


def with_keys(
    keys: Sequence[bytes], values: np.ndarray, texts: Sequence[str], ids: Sequence[str] | None = None
) -> Documents:
    """Documents with given keys and signatures."""
    names = pa.array(ids or [f"{i:06}" for i in range(len(texts))], pa.large_string())
    return Documents(
        np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES),
        [values],
        lambda wanted: [names.filter(wanted)],
        np.array([*map(len, texts)], np.int64),
        lambda wanted: compress(texts, wanted),
    )
