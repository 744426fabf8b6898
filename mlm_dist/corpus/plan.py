"""The plan of a preparation: what rank 0 has found out before the work, for the other ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mlm_dist.corpus.inputs import CorpusInputs
from mlm_dist.corpus.rendezvous import Rendezvous
from mlm_dist.files import temporary_folder


@dataclass(frozen=True)
class Plan:
    """What all ranks need to know.

    Args:
        digest: The digest of the corpus.
        inputs: What it is made from; None if it is prepared already.
        is_stored: Whether its documents and training rows stay in a store.
    """

    digest: str
    inputs: CorpusInputs | None
    is_stored: bool = False

    @classmethod
    def agreed(cls, ranks: Rendezvous, make: Callable[[], Plan]) -> Plan:
        """Rank 0 makes the plan, and every rank returns it. What a corpus is made from is handed over in files.

        Raises:
            PeerError: Another rank failed.
        """
        made: list[Plan] = []

        def write() -> dict[str, str | bool | None]:
            made.append(make())
            inputs, name = made[0].inputs, None
            if inputs is not None and ranks.world_size > 1:
                folder = temporary_folder(ranks.folder / "inputs")  # an earlier launch may have left one
                inputs.write(folder)
                name = folder.name
            return {"digest": made[0].digest, "inputs": name, "is_stored": made[0].is_stored}

        found = ranks.lead("plan", write)
        if made:
            return made[0]
        if found["inputs"] is None:
            return cls(str(found["digest"]), None, bool(found["is_stored"]))
        folder = ranks.folder / str(found["inputs"])
        ranks.see([folder / "inputs.json"])
        return cls(str(found["digest"]), CorpusInputs.read(folder))
