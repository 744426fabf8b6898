"""A rendezvous of ranks: all get the same answers, files of earlier launches are ignored, and ranks fail together."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent

import launching
import numpy as np
import pytest

from mlm_dist.corpus.rendezvous import Rendezvous
from mlm_dist.corpus.shares import share

HOST = socket.gethostname()
# The beginning of every process. Tests that wait for SILENCE_SECONDS shorten it.
BEGINNING = """
import json, os, signal, sys, threading, time
from pathlib import Path
from mlm_dist.corpus import rendezvous as module
from mlm_dist.errors import CorpusError, Interrupted, PeerError
folder, rank, world_size = Path(sys.argv[1]), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])

def gather():
    "Wait until all processes have started."
    mark = "started-" + os.environ["MASTER_PORT"]
    Path(folder, f"{mark}-{rank}").touch()
    while len(list(folder.glob(f"{mark}-*"))) < world_size:
        time.sleep(0.01)

"""


def launch(folder: Path, world_size: int, program: str, port: int = 29500) -> list[launching.Ended]:
    """Run the same program on some ranks at the same time."""
    for mark in folder.glob(f"started-{port}-*"):
        mark.unlink()

    def live(rank: int) -> launching.Ended:
        return launching.run(
            [sys.executable, "-c", BEGINNING + dedent(program), str(folder)],
            timeout=40,
            RANK=str(rank),
            WORLD_SIZE=str(world_size),
            MASTER_ADDR="localhost",
            MASTER_PORT=str(port),
        )

    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(live, range(world_size)))


def answers(ended: list[launching.Ended]) -> list[object]:
    """The last line each rank printed, after checking that all succeeded."""
    assert [one.returncode for one in ended] == [0] * len(ended), [one.stderr for one in ended]
    return [json.loads(one.stdout.splitlines()[-1]) for one in ended]


def test_one_process_needs_no_files(tmp_path: Path) -> None:
    with Rendezvous(tmp_path / "ranks", 0, 1) as ranks:
        value = object()
        assert ranks.lead("plan", lambda: value) is value
        ranks.wait_for([])
        (tmp_path / "there").touch()
        ranks.wait_for([tmp_path / "there"])
    assert not (tmp_path / "ranks").exists()


def test_each_purpose_has_its_own_folder(tmp_path: Path) -> None:
    """In a shared folder, the last rank to leave the first rendezvous would remove files of the second."""
    first, again, second = (Rendezvous(tmp_path, 0, 2, purpose).folder for purpose in ("first", "first", "second"))
    assert first == again != second


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("num_items", [0, 1, 3, 8, 20])
def test_items_are_shared_once_and_evenly(world_size: int, num_items: int) -> None:
    sizes = np.random.default_rng(num_items).integers(0, 100, num_items).tolist()
    shares = [share(sizes, rank, world_size) for rank in range(world_size)]
    assert sorted(item for items in shares for item in items) == list(range(num_items))
    loads = [sum(sizes[i] for i in items) for items in shares]
    assert max(loads) - min(loads) <= max(sizes, default=0)


def test_all_ranks_return_what_rank_0_makes(tmp_path: Path) -> None:
    program = """
    gather()
    time.sleep(0.3 * rank)
    def make(name):
        with open(folder / "made", "a") as file:
            file.write(f"{rank}:{name} ")
        return {"name": name, "list": [1, None, "\\udcff"]}
    with module.Rendezvous(folder, rank, world_size) as ranks:
        found = [ranks.lead(name, lambda: make(name)) for name in ("one", "two", "three")]
    print(json.dumps(found))
    """
    expected = [{"name": name, "list": [1, None, "\udcff"]} for name in ("one", "two", "three")]
    assert answers(launch(tmp_path, 3, program)) == [expected] * 3
    assert (tmp_path / "made").read_text() == "0:one 0:two 0:three "
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]  # the last rank has removed the folder


def test_all_ranks_wait_for_the_files_of_all(tmp_path: Path) -> None:
    program = """
    files = [folder / f"shard-{i}" for i in range(7)]
    with module.Rendezvous(folder, rank, world_size) as ranks:
        ranks.lead("plan", lambda: None)
        for i in range(rank, 7, world_size):
            time.sleep(0.2 * rank)
            files[i].touch()
        ranks.wait_for(files)
        print(json.dumps([file.exists() for file in files]))
    """
    assert answers(launch(tmp_path, 3, program)) == [[True] * 7] * 3


def test_rank_that_works_long_is_not_silent(tmp_path: Path) -> None:
    program = """
    module.SILENCE_SECONDS = 1.5
    gather()
    with module.Rendezvous(folder, rank, world_size) as ranks:
        print(json.dumps(ranks.lead("plan", lambda: rank or time.sleep(3) or "done")))
    """
    assert answers(launch(tmp_path, 2, program)) == ["done"] * 2


LEAD = """
gather()
time.sleep({delay})
with module.Rendezvous(folder, rank, world_size) as ranks:
    print(json.dumps(ranks.lead("plan", lambda: {value!r})))
    {more}
"""


@pytest.mark.parametrize("late", [0, 1])
def test_answer_of_an_earlier_launch_is_ignored(tmp_path: Path, late: int) -> None:
    def once(value: str, more: str) -> list[object]:
        return answers(launch(tmp_path, 2, LEAD.format(delay=f"0.6 * (rank == {late})", value=value, more=more)))

    assert once("old", "sys.stdout.flush(); os._exit(0)") == ["old"] * 2  # before it removes its file
    assert list(tmp_path.glob("*/plan.json"))
    assert once("new", "") == ["new"] * 2


@pytest.mark.parametrize(
    ("culprit", "late", "end"),
    [
        (0, 0, "raise CorpusError('old trouble')"),
        (0, 1, "raise CorpusError('old trouble')"),
        (1, 0, "raise CorpusError('old trouble')"),
        (1, 1, "raise CorpusError('old trouble')"),
        (1, 0, "os.kill(os.getpid(), signal.SIGKILL)"),
    ],
)
def test_failure_of_an_earlier_launch_is_ignored(tmp_path: Path, culprit: int, late: int, end: str) -> None:
    more = f"if rank == {culprit}: {end}"
    first = launch(tmp_path, 2, LEAD.format(delay=0, value="old", more=more))
    assert first[culprit].returncode != 0
    second = launch(tmp_path, 2, LEAD.format(delay=f"0.6 * (rank == {late})", value="new", more=""))
    assert answers(second) == ["new"] * 2


def test_concurrent_launches_do_not_interfere(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(
            lambda i: answers(launch(tmp_path, 2, LEAD.format(delay="0.5 * rank", value=i, more=""), port=29500 + i)),
            (1, 2),
        )
    assert list(found) == [[1, 1], [2, 2]]


FAIL = """
gather()
with module.Rendezvous(folder, rank, world_size) as ranks:
    try:
        ranks.lead("plan", lambda: {make})
        if rank == 2: {end}
        ranks.wait_for([folder / "never"])
    except PeerError as error:
        print(json.dumps(str(error)))
"""


@pytest.mark.parametrize(
    ("culprit", "lines", "said"),
    [
        (0, {"make": "[][1]"}, f"rank 0 on {HOST} failed: IndexError: list index out of range"),
        (2, {"end": "raise CorpusError('no space')"}, f"rank 2 on {HOST} failed: no space"),
        (2, {"end": "{}['key']"}, f"rank 2 on {HOST} failed: KeyError: 'key'"),
        (2, {"end": "sys.exit(3)"}, f"rank 2 on {HOST} failed: SystemExit: 3"),
    ],
)
def test_failure_of_one_rank_stops_the_others(tmp_path: Path, culprit: int, lines: dict[str, str], said: str) -> None:
    started = time.monotonic()
    ended = launch(tmp_path, 3, FAIL.format(**{"make": "1", "end": "pass"} | lines))
    assert time.monotonic() - started < 20
    assert ended[culprit].returncode != 0
    del ended[culprit]
    assert answers(ended) == [said] * 2


def test_failure_before_others_start_is_noticed(tmp_path: Path) -> None:
    program = """
        gather()
    time.sleep(rank != 1)
    with module.Rendezvous(folder, rank, world_size) as ranks:
        if rank == 1:
            raise CorpusError("early")
        try:
            ranks.lead("plan", lambda: None)
            ranks.wait_for([folder / "never"])
        except PeerError as error:
            print(json.dumps(str(error)))
    """
    zero, one, two = launch(tmp_path, 3, program)
    assert one.returncode != 0
    assert answers([zero, two]) == [f"rank 1 on {HOST} failed: early"] * 2


def test_killed_rank_is_named_in_the_error(tmp_path: Path) -> None:
    program = """
    module.SILENCE_SECONDS = 2.0
    gather()
    try:
        with module.Rendezvous(folder, rank, world_size) as ranks:
            ranks.lead("plan", lambda: None)
            if rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            ranks.wait_for([folder / "never"])
    except (CorpusError, PeerError) as error:
        print(json.dumps(str(error)))
    """
    zero, one, two = launch(tmp_path, 3, program)
    assert one.returncode == -9
    said = answers([zero, two])
    # The first rank to notice fails; the other may read its failure.
    assert all(
        f"rank 1 on {HOST} has written nothing" in str(line) and "corpus.cache_dir" in str(line) for line in said
    )


def test_rank_that_never_starts_is_named_in_the_error(tmp_path: Path) -> None:
    program = """
    module.SILENCE_SECONDS = 1.0
    if rank == 1:
        sys.exit("wrong flag")
    try:
        with module.Rendezvous(folder, rank, world_size) as ranks:
            ranks.lead("plan", lambda: None)
    except CorpusError as error:
        print(json.dumps(str(error)))
    """
    zero, one = launch(tmp_path, 2, program)
    assert one.returncode != 0
    (said,) = answers([zero])
    assert "rank 1 has written nothing" in str(said) and "to start" in str(said)


def test_failure_is_written_for_the_others(tmp_path: Path) -> None:
    program = """
    with module.Rendezvous(folder, rank, world_size) as ranks:
        if rank == 1:
            raise CorpusError("over three lines?\\nno")
        os._exit(0)
    """
    launch(tmp_path, 2, program)
    (path,) = tmp_path.glob("*/rank-1.json")
    assert json.loads(path.read_text())["failed"] == r"over three lines?\nno"
    assert os.stat(path).st_mode & 0o444 == 0o444  # ranks of other users can read it


@pytest.mark.slow
@pytest.mark.parametrize("culprit", [0, 1])
def test_rank_may_start_long_before_one_that_failed_in_an_earlier_launch(tmp_path: Path, culprit: int) -> None:
    first = launch(tmp_path, 2, LEAD.format(delay=0, value="old", more=f"if rank == {culprit}: [][1]"))
    assert first[culprit].returncode != 0
    second = launch(tmp_path, 2, LEAD.format(delay=f"12 * (rank == {culprit})", value="new", more=""))
    assert answers(second) == ["new"] * 2


@pytest.mark.parametrize("end", ["raise KeyboardInterrupt", "raise Interrupted('saved')"])
def test_interrupted_rank_has_not_failed(tmp_path: Path, end: str) -> None:
    """The others stop as well, as if they had received the signal."""
    program = f"""
    try:
        with module.Rendezvous(folder, rank, world_size) as ranks:
            if rank == 1:
                {end}
            ranks.wait_for([folder / "never"])
    except (KeyboardInterrupt, Interrupted) as error:
        print(json.dumps(type(error).__name__))
    """
    zero, _, two = answers(launch(tmp_path, 3, program))
    assert (zero, two) == ("Interrupted", "Interrupted")


def test_stopped_rank_is_named_with_its_host(tmp_path: Path) -> None:
    program = """
    module.SILENCE_SECONDS = 2.0
    (folder / f"pid-{rank}").write_text(str(os.getpid()))
    try:
        with module.Rendezvous(folder, rank, world_size) as ranks:
            if rank == 1:
                os.kill(os.getpid(), signal.SIGSTOP)
            ranks.wait_for([folder / "never"])
    except (CorpusError, PeerError) as error:
        print(json.dumps(str(error)))
    if rank == 0:
        os.kill(int((folder / "pid-1").read_text()), signal.SIGCONT)
    """
    zero, one = answers(launch(tmp_path, 2, program))
    assert f"rank 1 on {HOST} has written nothing" in str(zero)
    assert f"rank 0 on {HOST} failed: rank 1 on {HOST}" in str(one)  # it continues, and learns why the others ended


def test_time_in_which_all_ranks_are_stopped_does_not_count(tmp_path: Path) -> None:
    """As with Ctrl-Z, or a job that a cluster suspends."""
    program = """
    module.SILENCE_SECONDS = 2.0
    with module.Rendezvous(folder, rank, world_size) as ranks:
        (folder / f"pid-{rank}").write_text(str(os.getpid()))
        ranks.wait_for([folder / "go"])
        print(json.dumps(rank))
    """

    def stop_for_some_time() -> None:
        while not all((folder / f"pid-{rank}").exists() for rank in range(2)):
            time.sleep(0.01)
        time.sleep(0.5)
        pids = [int((folder / f"pid-{rank}").read_text()) for rank in range(2)]
        # One is continued later than the other, by less than a silence.
        for number, wait in ((signal.SIGSTOP, 3.0), (signal.SIGCONT, 0.5)):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
                time.sleep(wait / 2)
        time.sleep(1)
        (folder / "go").touch()

    folder = tmp_path
    thread = threading.Thread(target=stop_for_some_time)
    thread.start()
    assert answers(launch(tmp_path, 2, program)) == [0, 1]
    thread.join()


SEE = """
module.VISIBLE_SECONDS = {limit}
with module.Rendezvous(folder, rank, world_size) as ranks:
    try:
        if rank == 0:
            (folder / "partial").mkdir()
            # What a slow shared disk looks like to the others: the name changes later than rank 0 says.
            threading.Timer({late}, lambda: (folder / "partial").rename(folder / "whole")).start()
        ranks.lead("publish", lambda: None)
        rank and ranks.see([folder / "whole"])
        print(json.dumps("seen"))
    except CorpusError as error:
        print(json.dumps(str(error)))
"""


def test_file_that_is_seen_late_is_waited_for(tmp_path: Path) -> None:
    assert answers(launch(tmp_path, 2, SEE.format(limit=60, late=1))) == ["seen", "seen"]


def test_file_that_is_never_seen_is_named(tmp_path: Path) -> None:
    _, said = answers(launch(tmp_path, 2, SEE.format(limit=0.5, late=4)))
    pattern = rf"rank 1 on {re.escape(HOST)} does not see {tmp_path}/whole, .* share corpus.cache_dir"
    assert re.fullmatch(pattern, str(said))
