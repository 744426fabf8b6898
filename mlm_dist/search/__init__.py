"""Search in the documents of a run with its exported model.

from mlm_dist.search import open_search

search = open_search("runs/mine")
for hit in search.hits("how do I rotate keys", top=5):
    print(hit.score, hit.document, hit.heading, hit.text)
"""

from __future__ import annotations

from mlm_dist.search.of_run import Hit, RunSearch, open_search

__all__ = ["Hit", "RunSearch", "open_search"]
