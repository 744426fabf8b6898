"""Corpora whose selection is known, see `test_known_selections`."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from making import made_up_text

NUM_SETTINGS = 12  # per corpus


@dataclass(frozen=True)
class Settings:
    """Arguments of `selection.select`."""

    deduplicate: str
    near_threshold: float
    fraction: float | np.ndarray
    prefer: str | list[str]
    side: np.ndarray
    group: np.ndarray


def equal(draw: random.Random) -> list[str]:
    """A few texts, in many copies that differ in case and space, and texts without any."""
    base = [made_up_text(i, 40) for i in range(60)]
    forms: list[Callable[[str], str]] = [str, str.upper, str.title, lambda text: text.replace(" ", "\n")]
    return [draw.choice(forms)(draw.choice(base)) for _ in range(400)] + [
        made_up_text(1000 + i, 30) for i in range(100)
    ]


def cluster(draw: random.Random) -> list[str]:
    """Versions of one text that differ in one or two words each, among others."""
    words = made_up_text(7, 60).split()
    texts = [made_up_text(2000 + i, 60) for i in range(60)]
    for i in range(240):
        some = [*words]
        for _ in range(draw.randint(1, 2)):
            some[draw.randrange(60)] = f"n{draw.randrange(40)}"
        texts.append(" ".join(some) if i % 9 else " ".join(some).upper())
    return texts


def chain(draw: random.Random) -> list[str]:
    """Texts of which each begins some words after the one before, and a text that grows."""
    words = made_up_text(5, 1200).split()
    texts = [" ".join(words[step * i : step * i + 200]) for step in (4, 10, 12) for i in range(60)]
    return texts + [" ".join(words[: 40 * i]) for i in range(1, 25)]


def boundary(draw: random.Random) -> list[str]:
    """Pairs whose similarity is just over or under the threshold."""
    texts = []
    for i in range(150):
        words = made_up_text(3000 + i, 104).split()
        changed = made_up_text(4000 + i, 30).split()
        texts += [" ".join(words), " ".join(words[: 104 - draw.randint(9, 13)] + changed[: draw.randint(9, 13)])]
    return texts


def versions(draw: random.Random) -> list[str]:
    """Versions of versions, of several lengths."""
    texts = []
    for i in range(60):
        words = made_up_text(5000 + i, draw.choice([20, 60, 200])).split()
        for _ in range(draw.randint(1, 8)):
            texts.append(" ".join(words))
            for _ in range(draw.randint(0, 3)):
                words[draw.randrange(len(words))] = f"w{draw.randrange(10**6)}"
    return texts


CORPORA = {one.__name__: one for one in (equal, cluster, chain, boundary, versions)}


def corpus(name: str) -> tuple[list[str], list[str]]:
    """The texts and ids of a corpus."""
    draw = random.Random(name)
    texts = CORPORA[name](draw)
    draw.shuffle(texts)
    kinds = ("a.md", "pages.jsonl@{}", "v2/rows.parquet#{}.{}", "b/{}.txt", "v1/list.json#{}")
    return texts, [draw.choice(kinds).format(draw.randrange(99), draw.randrange(30)) for _ in texts]


def settings(name: str, count: int) -> Iterator[Settings]:
    """Several settings for a corpus of so many documents."""
    rng = np.random.default_rng(len(name))
    for i in range(NUM_SETTINGS):
        labelled = i % 3 == 1
        side = (
            rng.choice(np.array([-1, 0, 1], np.int8), count, p=[0.9, 0.07, 0.03])
            if i % 4 == 3
            else np.full(count, -1, np.int8)
        )
        group = rng.integers(0, count // 3, count).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        group[rng.random(count) < 0.6] = 0
        yield Settings(
            ("near", "near", "exact", "none")[i % 4 if i < 8 else 0],
            (0.8, 0.8, 0.5, 0.95)[i % 4],
            (0.3, 0.0, 1e-9, rng.choice([0.0, 0.2, 0.5, 1.0], count))[(i * 5 + i // 4) % 4],
            ("first", "longest", ["v2/", "pages.*"])[i % 3],
            side,
            group if labelled else np.zeros(count, np.uint64),
        )
