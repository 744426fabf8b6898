"""One stage of a preparation in a process of its own, with its seconds and its memory: `python scale_stages.py JSON`.

The stages are the pieces that every engine runs. They hand each other files, as tasks on several machines do, so the
memory of one does not hide that of another.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import common

from mlm_dist.config import parse
from mlm_dist.corpus import digests, pipeline
from mlm_dist.corpus.engines.task_plan import TaskPlan
from mlm_dist.corpus.inputs import CorpusInputs
from mlm_dist.corpus.preparation import Preparation
from mlm_dist.corpus.shard_store import ShardStore
from mlm_dist.corpus.shares import share
from mlm_dist.corpus.sources import acquire
from mlm_dist.corpus.tokenizer.corpus_tokenizer import CorpusTokenizer
from mlm_dist.files import write_json
from mlm_dist.resolve import corpus_spec
from mlm_dist.spec import CorpusSpec

PARALLEL = ("documents", "rows")  # stages that any number of processes divide
SAMPLE_SECONDS = 0.01


class MemoryMonitor:
    """Watches the memory of this process that is not backed by files. Linux only."""

    def __init__(self) -> None:
        self.peak = _anonymous()
        self._ended = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self.peak = max(self.peak, _anonymous())

    def stop(self) -> int:
        """End, and return the largest number of bytes that were seen."""
        self._ended.set()
        return max(self.peak, _anonymous())


def _anonymous() -> int:
    """Anonymous memory of this process in bytes: what cannot be dropped and read again from a file."""
    return common.status("RssAnon")


@contextlib.contextmanager
def measured(name: str, found: dict[str, dict[str, float]]) -> Iterator[None]:
    """Add the seconds inside, and the peak of the anonymous memory, to the figures of a stage."""
    monitor, started = MemoryMonitor(), time.perf_counter()
    yield
    seconds = time.perf_counter() - started
    found[name] = {"seconds": seconds, "memory": monitor.stop()}


class _MeasuredTokenizer(CorpusTokenizer):
    """A tokenizer whose training is a stage of its own."""

    def __init__(self, spec: CorpusSpec, found: dict[str, dict[str, float]]) -> None:
        super().__init__(spec.tokenizer, spec.rows.max_length)
        self._found = found

    def make(self, *arguments: Any) -> Any:
        with measured("tokenizer", self._found):
            return super().make(*arguments)


class Stages:
    """The stages of one preparation, of which each needs those before it.

    Args:
        flags: The configuration.
        rank: This process.
        world_size: Processes that divide a parallel stage.
    """

    def __init__(self, flags: Sequence[str], rank: int, world_size: int) -> None:
        self._spec = corpus_spec(parse(flags))
        self._cache = Path(self._spec.documents.cache_dir)
        self._rank, self._world_size = rank, world_size
        self.found: dict[str, dict[str, float]] = {}

    def files(self) -> None:
        """List and hash the files."""
        self._cache.mkdir(exist_ok=True)
        with measured("files", self.found):
            sources = [acquire(one.config, self._cache, one.source_key, one.name) for one in self._spec.sources]
            dependencies = digests.dependencies(self._spec, self._tokenizer())
            digest = digests.corpus_key([source.digest() for source in sources], dependencies)
            store = ShardStore(self._cache, digest)
            store.begin()
            TaskPlan.write(self._spec, CorpusInputs(digest, sources, dependencies), store)
        write_json(self._cache / "digest.json", digest)

    def documents(self) -> None:
        """Read, clean, hash and sign the documents of a share of the shards."""
        with measured("documents", self.found):
            preparation = self._preparation()
            for i in share(preparation.sizes, self._rank, self._world_size):
                preparation.write_documents(i)

    def selection(self) -> None:
        """Find duplicates and near-duplicates, decide the split, and train the tokenizer."""
        with measured("selection", self.found):
            digest = self._preparation(_MeasuredTokenizer(self._spec, self.found)).select()
        self.found["selection"]["seconds"] -= self.found["tokenizer"]["seconds"]
        write_json(self._cache / "tokenizer.json", digest)

    def rows(self) -> None:
        """Tokenize the documents of a share of the shards, and write their rows."""
        with measured("rows", self.found):
            preparation = self._preparation()
            rows = preparation.rows(json.loads((self._cache / "tokenizer.json").read_text()))
            for i in share(preparation.sizes, self._rank, self._world_size):
                rows.write(i)
                if not rows.has_word_starts(i):
                    rows.write_word_starts(i)

    def publish(self) -> None:
        """List what is dropped, write the manifest, and rename the folder."""
        with measured("publish", self.found):
            preparation = self._preparation()
            preparation.publish(preparation.rows(json.loads((self._cache / "tokenizer.json").read_text())))

    def restart(self) -> None:
        """What a run does that finds the corpus prepared: look for changed files, and open the rows."""
        with measured("restart", self.found):
            corpus = pipeline.prepare(self._spec)
            len(corpus.rows("train"))
        self.found["restart"]["documents"] = corpus.manifest["documents"]["train"]
        self.found["restart"]["tokens"] = corpus.manifest["tokens"]["kept"]

    def _tokenizer(self) -> CorpusTokenizer:
        return CorpusTokenizer(self._spec.tokenizer, self._spec.rows.max_length)

    def _preparation(self, tokenizer: CorpusTokenizer | None = None) -> Preparation:
        plan = TaskPlan(self._spec, self._cache, json.loads((self._cache / "digest.json").read_text()))
        inputs = CorpusInputs.read(plan.folder / "inputs")
        return Preparation(self._spec, inputs, plan.store, tokenizer or self._tokenizer())


def main(task: dict[str, Any]) -> None:
    """Run a stage, and print its figures."""
    stages = Stages(task["flags"], task["rank"], task["workers"])
    run: Callable[[], None] = getattr(stages, task["stage"])
    run()
    print(json.dumps(stages.found))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
