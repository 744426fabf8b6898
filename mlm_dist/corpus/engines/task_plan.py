"""What the tasks of engine datatrove share: files in the partial folder until the corpus is published."""

from __future__ import annotations

import dataclasses
import json
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from mlm_dist import system_errors
from mlm_dist.config import SourceConfig
from mlm_dist.corpus.inputs import CorpusInputs
from mlm_dist.corpus.preparation import Preparation
from mlm_dist.corpus.rendezvous import unseen
from mlm_dist.corpus.shard_store import ShardStore
from mlm_dist.corpus.tokenizer.corpus_tokenizer import CorpusTokenizer
from mlm_dist.credentials import without_credentials
from mlm_dist.errors import CorpusError, UserError
from mlm_dist.files import write_json
from mlm_dist.spec import CorpusSpec

T = TypeVar("T", bound=SourceConfig)

FOLDER = "datatrove"
Part = Literal["documents", "selection", "rows"]
PARTS: tuple[Part, ...] = ("documents", "selection", "rows")


@dataclass(frozen=True)
class TaskPlan:
    """Where a task finds its work. datatrove pickles it for processes on other machines, so it holds no credentials.

    Args:
        spec: The corpus.
        cache_dir: The cache.
        digest: The digest of the corpus.
    """

    spec: CorpusSpec
    cache_dir: Path
    digest: str

    @classmethod
    def write(cls, spec: CorpusSpec, inputs: CorpusInputs, store: ShardStore) -> TaskPlan:
        """The plan of a corpus; what it is made from is written to a file."""
        plan = cls(_without_credentials(spec), store.folder.parent, inputs.digest)
        plan.folder.mkdir(exist_ok=True)
        inputs.write(plan.folder / "inputs")
        return plan

    @property
    def store(self) -> ShardStore:
        """The folders of the corpus."""
        return ShardStore(self.cache_dir, self.digest)

    @property
    def folder(self) -> Path:
        """Files of the tasks, among them what datatrove logs and pickles."""
        return self.store.partial / FOLDER

    @property
    def selected(self) -> Path:
        """File that exists once the documents are selected, with the digest of the tokenizer and the log messages."""
        return self.folder / "selected.json"

    def preparation(self) -> Preparation:
        """The preparation that the task is a part of."""
        inputs = CorpusInputs.read(self.folder / "inputs")
        tokenizer = CorpusTokenizer(self.spec.tokenizer, self.spec.rows.max_length)
        return Preparation(self.spec, inputs, self.store, tokenizer)

    def fail(self, error: Exception) -> None:
        """Record why a task failed, for the process that launched it. The first failure stays."""
        known = error if isinstance(error, UserError) else system_errors.explain(error)
        if not (self.folder / "failure.json").exists():
            trace = None if known else "".join(traceback.format_exception(error))
            write_json(self.folder / "failure.json", {"message": str(known or error), "traceback": trace})

    def raise_failure(self) -> None:
        """Raise the error that a task recorded, if one did.

        Raises:
            CorpusError: The user's input is wrong.
            RuntimeError: A fault, with its traceback.
        """
        path = self.folder / "failure.json"
        if path.exists():
            failure = read_json(path)
            if failure["traceback"] is None:
                raise CorpusError(failure["message"]) from None
            raise RuntimeError(f"a task failed:\n{failure['traceback']}") from None


def read_json(path: Path) -> Any:
    """The value in a JSON file."""
    return json.loads(path.read_text("utf-8"))


def await_files(paths: Sequence[Path]) -> None:
    """Wait until this process sees files that others have written already.

    Raises:
        CorpusError: It does not see them.
    """
    if missing := unseen(paths):
        raise CorpusError(
            f"{len(missing):,} of {len(paths):,} files that tasks write are missing, such as {missing[0]}; all "
            "machines must share corpus.cache_dir; see what the tasks logged, and run the same command again"
        )


def _without_credentials(spec: CorpusSpec) -> CorpusSpec:
    """The spec as far as a task needs it. The files are fetched already, so it needs no credentials."""
    sources = tuple(dataclasses.replace(one, config=_cleaned(one.config)) for one in spec.sources)
    several = {
        name: {key: without_credentials(value) if key == "source" else value for key, value in values.items()}
        for name, values in spec.documents.sources.items()
    }
    documents = dataclasses.replace(_cleaned(spec.documents), sources=several, executor_options={})
    return dataclasses.replace(spec, sources=sources, documents=documents)


def _cleaned(config: T) -> T:
    return dataclasses.replace(config, source=without_credentials(config.source))
