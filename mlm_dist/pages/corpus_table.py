"""The corpus of a run as a table: documents found, dropped and kept, tokens, and rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlm_dist.corpus import summary
from mlm_dist.pages.formats import percent
from mlm_dist.pages.tables import Table

MANIFEST_KEYS = ("sources", "documents", "tokens", "rows", "notes", "config")  # the part of a manifest that is shown


def corpus_table(manifest: Mapping[str, Any] | None) -> Table | None:
    """The table; None without a manifest.

    Args:
        manifest: `MANIFEST_KEYS` of a corpus manifest.
    """
    if manifest is None:
        return None
    documents, tokens, rows = (manifest[key] for key in ("documents", "tokens", "rows"))
    num_documents = max(documents["found"], 1)
    num_tokens = max(tokens["kept"] + tokens["dropped"], 1)
    mode, max_length = (manifest["config"]["rows"][key] for key in ("mode", "max_length"))
    num_positions = max((rows["train"] + rows["validation"]) * max_length, 1)

    def count(name: str, value: int, total: int | None = None) -> list[str]:
        return [name, f"{value:,}", "" if total is None else percent(value / total)]

    lines = [
        count("documents found", documents["found"]),
        *(
            count(f"documents dropped: {reason}", number, num_documents)
            for reason, number in documents["dropped"].items()
        ),
        count("training documents", documents["train"], num_documents),
        count("validation documents", documents["validation"], num_documents),
        count("tokens kept", tokens["kept"], num_tokens),
        count(f"tokens dropped by rows.mode {mode}", tokens["dropped"], num_tokens),
        count("unknown tokens", tokens["unknown"], num_tokens),
        count("padded positions", tokens["padded"], num_positions),
        count("training rows", rows["train"]),
        count("validation rows", rows["validation"]),
        *(count(f"note: {name}", number) for name, number in manifest.get("notes", {}).items()),
    ]
    kinds = ("" if one["kind"] == one["location"] else f"{one['kind']} " for one in manifest["sources"])
    names = ", ".join(kind + summary.location(one) for kind, one in zip(kinds, manifest["sources"], strict=True))
    return Table(f"Source: {names}", ["", "number", "share"], lines, numbers=True)
