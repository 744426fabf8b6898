"""`mlm-dist cache`: list the prepared corpora, and remove those that are no longer needed.

    mlm-dist cache                                   list them
    mlm-dist cache prune --older-than 30d --dry-run  show which were not used for 30 days
    mlm-dist cache prune --older-than 30d            remove these
    mlm-dist cache prune 5de31f2c                    remove one, by the beginning of its digest
    mlm-dist cache --cache_dir DIR                   of another cache

A corpus that a run uses is kept. A run whose corpus is gone prepares it again from its documents. Fetched sources, in
`sources/` of the cache, are not removed.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from mlm_dist import names
from mlm_dist.config import Config, command_line
from mlm_dist.corpus import cached
from mlm_dist.corpus.cached import CachedCorpus
from mlm_dist.errors import ConfigError, CorpusError, reason

_SECONDS = {"h": 3600, "d": 86400, "w": 7 * 86400}
_OPTIONS = ("--cache-dir", "--older-than", "--dry-run", "--help")


class _Request(NamedTuple):
    """What the words ask for.

    Args:
        cache_dir: The cache.
        digests: Beginnings of digests to remove.
        older_than: Seconds without use after which a corpus is removed; None removes by digest.
        prune: Whether something is removed.
        dry_run: Whether it is only shown.
    """

    cache_dir: Path
    digests: list[str]
    older_than: float | None
    prune: bool
    dry_run: bool


def main(words: Sequence[str]) -> None:
    """List the corpora of a cache, or remove some.

    Raises:
        ConfigError: The words cannot be read; the message says what to write.
        CorpusError: A corpus cannot be removed.
    """
    if {"-h", "--help"} & set(words):
        sys.stdout.write(f"{(__doc__ or '').strip()}\n")
        return
    request = _read(words)
    found = cached.find(request.cache_dir)
    if not request.prune:
        sys.stdout.write(_listed(found, request.cache_dir))
        return
    chosen = _chosen(found, request)
    kept = []
    for corpus in chosen:
        try:
            if not cached.remove(corpus, dry_run=request.dry_run):
                kept.append(corpus)
        except OSError as error:
            raise CorpusError(f"--cache_dir: cannot remove {corpus.folder} ({reason(error)})") from None
    removed = [corpus for corpus in chosen if corpus not in kept]
    lines = _table(removed) if removed else []
    lines += [f"kept {corpus.digest}: a run uses it" for corpus in kept]
    verb = "would remove" if request.dry_run else "removed"
    lines.append(f"{verb} {_count(removed)} from {_short(request.cache_dir)}")
    sys.stdout.write("\n".join(lines) + "\n")


def _read(words: Sequence[str]) -> _Request:
    cache_dir, older_than, dry_run = Config().corpus.cache_dir, None, False
    named: list[str] = []
    # --dry-run takes no value: a word behind it is a digest.
    for flag, value in command_line.pairs([part for word in words for part in _without_value(word)]):
        match flag.replace("_", "-"):
            case "":
                named.append(str(value))
            case "--dry-run":
                dry_run = True
            case "--cache-dir" if value:
                cache_dir = value
            case "--older-than" if value:
                older_than = _seconds(value)
            case "--cache-dir" | "--older-than":
                raise ConfigError(f"{flag}: needs a value; see mlm-dist cache --help")
            case other:
                raise ConfigError(f"mlm-dist cache has no {flag}; {names.nearest(other, _OPTIONS)}")
    action, digests = (named or [""])[0], named[1:]
    if action not in ("", "prune"):
        raise ConfigError(f"mlm-dist cache: there is no '{action}'; write mlm-dist cache, or mlm-dist cache prune")
    if action == "prune" and bool(digests) == (older_than is not None):
        raise ConfigError("mlm-dist cache prune: give either digests or --older-than, such as --older-than 30d")
    if not action and (older_than is not None or dry_run):
        raise ConfigError("mlm-dist cache only lists; to remove corpora, write mlm-dist cache prune")
    return _Request(Path(cache_dir).expanduser().absolute(), digests, older_than, bool(action), dry_run)


def _without_value(word: str) -> list[str]:
    return [f"{word}="] if word.replace("_", "-") == "--dry-run" else [word]


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", text)
    if match is None:
        raise ConfigError(f"--older-than: must be like 12h, 30d or 4w, got {text}")
    return float(match[1]) * _SECONDS[match[2]]


def _chosen(found: Sequence[CachedCorpus], request: _Request) -> list[CachedCorpus]:
    """The corpora to remove.

    Raises:
        ConfigError: A digest is that of no corpus, or of several.
    """
    if request.older_than is not None:
        return [corpus for corpus in found if time.time() - corpus.last_used > request.older_than]
    chosen = []
    for digest in request.digests:
        matching = [corpus for corpus in found if corpus.digest.startswith(digest)]
        several = len({corpus.digest for corpus in matching})
        if several != 1 or not digest:
            problem = "there is no corpus" if not several else f"{several} corpora have a digest that begins with"
            raise ConfigError(f"mlm-dist cache prune: {problem} {digest}; mlm-dist cache lists them")
        chosen += [corpus for corpus in matching if corpus not in chosen]
    return chosen


def _listed(found: Sequence[CachedCorpus], cache_dir: Path) -> str:
    where = _short(cache_dir)
    sources = [path.lstat().st_size for path in (cache_dir / "sources").rglob("*") if not path.is_dir()]
    lines = [*_table(found), ""] if found else []
    lines.append(f"{_count(found)} in {where}")
    if sources:
        lines.append(f"fetched sources: {_size(sum(sources))} in {where}/sources")
    if found:
        lines.append("remove what is no longer needed: mlm-dist cache prune --older-than 30d")
    return "\n".join(lines) + "\n"


def _table(found: Iterable[CachedCorpus]) -> list[str]:
    lines = [f"{'digest':<18}{'size':>10}  {'rows':>12}  {'last use':<15}source"]
    for one in found:
        source = one.source if one.is_prepared else "(interrupted)"
        used = cached.age(max(0.0, time.time() - one.last_used))
        lines.append(f"{one.digest:<18}{_size(one.size):>10}  {one.rows:>12,}  {used:<15}{_short(source)}")
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    return [line if width is None or len(line) <= width else f"{line[: width - 1]}…" for line in lines]


def _count(found: Sequence[CachedCorpus]) -> str:
    plural = "corpus" if len(found) == 1 else "corpora"
    return f"{len(found):,} {plural}, {_size(sum(one.size for one in found))},"


def _short(path: Path | str) -> str:
    home = os.path.expanduser("~")
    return re.sub(rf"^{re.escape(home)}(?=/)", "~", str(path)) if home != "/" else str(path)


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"
