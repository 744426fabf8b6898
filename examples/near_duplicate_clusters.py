"""Find near-duplicates with datatrove's MinHash: python examples/near_duplicate_clusters.py DOCUMENTS OUT TASKS.

DOCUMENTS is a folder of parquet files with a `text` column. OUT/documents has the same texts and a column `cluster`, a
number that near-duplicates have in common; it is null for documents without any. No document is removed. Each stage can
run on a Slurm or Ray cluster: replace LocalPipelineExecutor with another executor of datatrove.
"""

import os
import sys
from pathlib import Path

import pyarrow as pa
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupSignature,
)
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.writers import ParquetWriter
from datatrove.utils.binaryio import read_tuples_from_file
from datatrove.utils.hashing import HashConfig

SCHEMA = pa.schema({"id": pa.string(), "text": pa.string(), "cluster": pa.int64()})


class ClusterNumbers(PipelineStep):
    """Gives each document its cluster. MinhashDedupFilter would do so only in files of which it removes documents."""

    def __init__(self, folder: str):
        super().__init__()
        self.folder = folder

    def run(self, data, rank: int = 0, world_size: int = 1):
        path = Path(self.folder, f"{rank:06d}.clusters")
        cluster = {}
        if path.exists():
            with path.open("rb") as file:
                cluster = dict(read_tuples_from_file(file, "2I"))
        for index, document in enumerate(data):
            document.metadata["cluster"] = cluster.get(index)
            yield document


def main(documents: str, out: str, tasks: int) -> None:
    # Of two documents that share 80% of their phrases, 1 - (1 - 0.8^8)^29 = 99.5% are found, and of 60% 39%.
    hashes = HashConfig(hash_fc="sha1")  # datatrove 0.10 cannot use xxhash 4
    config = MinhashConfig(n_grams=5, num_buckets=29, hashes_per_bucket=8, hash_config=hashes)
    stages = {name: f"{out}/minhash/{name}" for name in ("signatures", "buckets", "clusters")}

    def run(name: str, pipeline: list, tasks: int) -> None:
        workers = min(tasks, os.cpu_count() or 1)
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=workers, logging_dir=f"{out}/logs/{name}").run()

    # The first and the last stage must read the same files with the same number of tasks.
    reader = ParquetReader(documents)
    run("signatures", [reader, MinhashDedupSignature(stages["signatures"], config)], tasks)
    run("buckets", [MinhashDedupBuckets(stages["signatures"], stages["buckets"], config=config)], config.num_buckets)
    clusters = MinhashDedupCluster(stages["buckets"], stages["clusters"], config=config, save_cluster_id=True)
    run("clusters", [clusters], 1)
    writer = ParquetWriter(
        f"{out}/documents",
        adapter=lambda _, one: {"id": one.id, "text": one.text, "cluster": one.metadata["cluster"]},
        schema=SCHEMA,
    )
    run("documents", [reader, ClusterNumbers(stages["clusters"]), writer], tasks)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
