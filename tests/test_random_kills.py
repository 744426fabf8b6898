"""Processes are killed at random moments and the run goes on on random topologies: it ends as if nothing had happened.

MLM_DIST_CASES is the number of kills and MLM_DIST_SEED where the random choices begin; a failure prints both.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import forked_ranks
import launching
import pytest
import torch
from forked_ranks import TOPOLOGIES, Ranks
from safetensors.torch import load_file

from mlm_dist.checkpoint import find, format
from mlm_dist.files import lock

SEED = int(os.environ.get("MLM_DIST_SEED", "1"))
SECONDS_OF_A_LAUNCH = 12.0  # about what it takes from its start to its end, on one core


class Story:
    """Launches of one run in one directory.

    Args:
        folder: An empty folder.
        documents: A folder of documents.
        num_steps: The run's length.
    """

    def __init__(self, folder: Path, documents: Path, num_steps: int) -> None:
        self.folder, self.run, self.num_steps = folder, folder / "run", num_steps
        self.launches: list[str] = []
        self.flags = [
            *(f"--corpus.source={documents}", f"--corpus.cache_dir={folder / 'cache'}", f"--output_dir={self.run}"),
            *(f"--optim.duration={num_steps} steps", "--batch.global_size=8", "--logging.every=1"),
            *("--checkpoint.every=2", "--checkpoint.keep_last=2", "--validation.every=5", *launching.DROPOUT),
            *launching.TINY,
        ]

    @contextlib.contextmanager
    def launch(self, topology: str, fault: str = "") -> Iterator[Ranks]:
        """Start the run again; what it printed is in the error if something inside fails."""
        self.launches.append(topology)
        output = self.folder / f"{len(self.launches)}.txt"
        with Ranks(topology, self.flags, output, {"MLM_DIST_FAULT": fault}) as ranks:
            yield ranks

    def finish(self, topology: str, fault: str = "") -> list[int | None]:
        """Start the run again, and wait for its end; returns the exit codes."""
        with self.launch(topology, fault) as ranks:
            codes = ranks.end()
            assert fault or codes == [0] * len(codes), f"{self}: {codes}\n{ranks.output}"
        return codes

    def check_interrupted(self) -> None:
        """What is on the disk is good, and no one holds the directory."""
        problems = find.newest(self.run / "checkpoints")[1]
        assert problems == [], f"{self}: {problems}"
        if self.run.exists():
            lock(self.run / ".lock", wait=False).release()

    def weights(self) -> dict[str, torch.Tensor]:
        """The exported model's."""
        found: dict[str, torch.Tensor] = load_file(self.run / "model" / "model.safetensors")
        return found

    def compare(self, whole: Story) -> None:
        """The same metrics and weights as a run that nobody disturbed: bits if all topologies were the same."""
        exact = {*self.launches} == {*whole.launches}
        for kind, key in (("train", "loss"), ("train", "tokens"), ("validation", "loss")):
            ours, theirs = (launching.metrics(story.run, kind) for story in (self, whole))
            assert [line["step"] for line in ours] == [line["step"] for line in theirs], f"{self}: steps of {kind}"
            values, expected = [line[key] for line in ours], [line[key] for line in theirs]
            assert values == (expected if exact else pytest.approx(expected, rel=1e-5)), f"{self}: {key} of {kind}"
        names = [path.name for path in format.published(self.run / "checkpoints")]
        assert f"step-{self.num_steps:08d}" in names, f"{self}: {names}"
        assert len(names) <= 3, f"{self}: {names}"  # two, and the best
        weights, expected_weights = self.weights(), whole.weights()
        assert weights.keys() == expected_weights.keys()
        for name, value in weights.items():
            other = expected_weights[name]
            if exact:
                assert torch.equal(value, other), f"{self}: {name} is not equal to the last bit"
            else:
                torch.testing.assert_close(value, other, rtol=1e-3, atol=1e-5, msg=f"{self}: {name}")

    def __str__(self) -> str:
        return f"MLM_DIST_SEED={SEED}, in {self.folder}, launches {' '.join(self.launches)}"


class Wholes:
    """Runs that nobody disturbs, each made once, when it is needed."""

    def __init__(self, folder: Path, documents: Path, num_steps: int) -> None:
        self.folder, self.documents, self.num_steps = folder, documents, num_steps
        self._made: dict[str, Story] = {}

    def __call__(self, topology: str) -> Story:
        if topology not in self._made:
            (self.folder / topology).mkdir()
            story = self._made[topology] = Story(self.folder / topology, self.documents, self.num_steps)
            story.finish(topology)
        return self._made[topology]


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory, small: tuple[Path, int]) -> Wholes:
    cache, num_rows = small
    epoch_end = num_rows // 8  # the step in which the first epoch ends
    return Wholes(tmp_path_factory.mktemp("wholes"), cache / "documents", epoch_end + 8)


def kill_at_random(draw: random.Random, story: Story, ranks: Ranks) -> bool:
    """Kill one process at a random moment of the launch, or while a checkpoint is saved; whether one was killed."""
    checkpoints = story.run / "checkpoints"
    deadline = time.monotonic() + draw.uniform(0, SECONDS_OF_A_LAUNCH)
    saves_to_see = draw.choice((0, 0, 1, 2, 5))  # 0: whatever it does
    before: set[str] = set()
    while ranks.is_alive and (saves_to_see or time.monotonic() < deadline):
        if saves_to_see and checkpoints.is_dir():
            now = {path.name for path in checkpoints.iterdir()}
            saves_to_see, before = saves_to_see - (now > before and bool(before)), now
            if not saves_to_see:
                time.sleep(draw.uniform(0, 0.05))
                break
        time.sleep(0.001)
    victim = draw.randrange(len(ranks.processes))
    is_killed = ranks.processes[victim].is_alive()
    ranks.kill(victim)
    return is_killed


def kill_until_done(wholes: Wholes, folder: Path, num_kills: int, topologies: tuple[str, ...]) -> None:
    """Runs with so many kills in all, each to its end."""
    draw, kills, runs = random.Random(SEED), 0, 0
    while kills < num_kills:
        runs += 1
        home = folder / f"run-{runs}"
        home.mkdir()
        story = Story(home, wholes.documents, wholes.num_steps)
        allowed = draw.choice([(one,) for one in topologies] + [topologies] * len(topologies))
        kills_here = 0
        while kills < num_kills and kills_here < 6:
            with story.launch(draw.choice(allowed)) as ranks:
                was_killed = kill_at_random(draw, story, ranks)
                codes = [process.exitcode for process in ranks.processes]
                assert was_killed or codes == [0] * len(codes), f"{story}: {codes}\n{ranks.output}"
            if not was_killed:
                break
            kills, kills_here = kills + 1, kills_here + 1
            story.check_interrupted()
        last = draw.choice(allowed)
        story.finish(last)
        story.compare(wholes(last))
        shutil.rmtree(home)


def test_run_with_random_kills_ends_as_if_nothing_had_happened(wholes: Wholes, tmp_path: Path) -> None:
    kill_until_done(wholes, tmp_path, 1, ("one",))


@pytest.mark.slow
def test_random_kills_and_random_topologies(wholes: Wholes, tmp_path: Path) -> None:
    kill_until_done(wholes, tmp_path, int(os.environ.get("MLM_DIST_CASES", "100")), tuple(TOPOLOGIES))


@pytest.mark.slow
def test_topology_changes_many_times_within_an_epoch(wholes: Wholes, tmp_path: Path) -> None:
    """Each launch is killed in its second step. The order of the samples and the losses stay the same."""
    draw = random.Random(SEED)
    names = [*TOPOLOGIES, *TOPOLOGIES]
    draw.shuffle(names)
    whole, story = wholes("one"), Story(tmp_path, wholes.documents, wholes.num_steps)
    story.flags.append("--checkpoint.every=1")
    for step, topology in zip(range(1, wholes.num_steps, 2), names, strict=False):
        assert any(story.finish(topology, fault=f"mid_step@{step}")), f"{story}: was not killed at {step}"
        story.check_interrupted()
    story.finish("one")
    story.compare(whole)


def test_ranks_have_the_environment_of_the_launcher() -> None:
    """Otherwise these tests would prove nothing about a launch."""
    assert "RANK" not in forked_ranks.environments("one")[0]
    two = forked_ranks.environments("two")
    assert [environment["RANK"] for environment in two] == ["0", "1"]
    assert {environment["WORLD_SIZE"] for environment in two} == {"2"}
