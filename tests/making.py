"""Documents, repositories and disks for tests."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

SYLLABLES = ["ba", "ke", "di", "lo", "mu", "ra", "se", "ti", "vo", "nu", "pla", "gre", "sto", "fri", "clo"]


def made_up_text(seed: int, num_words: int) -> str:
    """Sentences of made-up words; the same seed gives the same text."""
    draw = random.Random(seed)
    words = ["".join(draw.choices(SYLLABLES, k=draw.randint(1, 4))) for _ in range(num_words)]
    return " ".join(word + "." if draw.random() < 0.1 else word for word in words)


def made_up_prose(seed: int, num_sentences: int) -> str:
    """Paragraphs of sentences about one of five subjects; the same seed gives the same text."""
    draw = random.Random(seed)
    subject = ("vault", "ledger", "cluster", "tunnel", "sensor")[seed % 5]
    verbs = ("protects", "replaces", "describes", "watches", "needs", "restores")
    things = ("keys", "rows", "requests", "values", "pages", "users", "documents", "networks")
    lines = []
    for i in range(num_sentences):
        start, verb, one, other = draw.choice(("The", "Every", "This")), draw.choice(verbs), *draw.sample(things, 2)
        lines.append(f"{start} {subject} {verb} the {one} that belong to the other {other}.")
        lines.append("\n\n" if i % 5 == 4 else " ")
    return "".join(lines).strip()


def run_git(folder: Path, *words: str) -> str:
    """The output of a git command in a folder, independent of the machine's git settings and environment."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    ours = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    name = ["-c", "user.name=Someone", "-c", "user.email=someone@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(
        ["git", *name, *words], cwd=folder, env=inherited | ours, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a small file system at a folder; the test is skipped where nothing can be mounted."""
    folder.mkdir(parents=True)
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"nothing can be mounted here ({error})")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
