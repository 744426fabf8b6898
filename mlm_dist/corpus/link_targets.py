"""Links between the documents of a source: which document the target of a link is."""

from __future__ import annotations

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from urllib.parse import unquote

from mlm_dist.corpus.readers import compression

_INDEX = frozenset(("index", "_index", "readme"))  # pages of a folder, whose address is that of the folder
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:|//")
# {% link PATH %} of Jekyll, {{< ref "PATH" >}} of Hugo, {{ '/PATH/' | relative_url }} of Liquid.
_TEMPLATES = (
    re.compile(r"\{%-?\s*(?:link|post_url)\s+([^\s%]+)\s*-?%\}"),
    re.compile(r"\{\{[<%]\s*(?:rel)?ref\s+[\"'`]([^\"'`]+)[\"'`]\s*[>%]\}\}"),
    re.compile(r"\{\{\s*[\"']([^\"']+)[\"']\s*\|\s*(?:relative_url|absolute_url|url)\s*\}\}"),
)
_BASE = re.compile(r"\A\{\{[^{}]*(?:base_?url|base)[^{}]*\}\}", re.IGNORECASE)
_PART = re.compile(r"#(?:train|validation)\Z")
_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,8}\Z")

ELSEWHERE, WITHIN, NO_DOCUMENT = "address of another site", "the document itself", "document not found"


class LinkTargets:
    """The documents of a set by the targets that lead to them.

    A path is relative to the folder of the document with the link, or to the root of the source. The root of a site may
    be elsewhere: if a path that begins with a slash leads to no document, the only one whose path ends in it is meant,
    or in it without its first folder. Case, suffixes, anchors, queries and the name of an index page make no
    difference. A document that is divided into parts is found as those of its parts that are in the set.

    Args:
        ids: Ids of the documents: paths, with the name of the source in front if there are several.

    Attributes:
        dropped: {why a target is not resolved: number of links}.
    """

    def __init__(self, ids: Iterable[str]) -> None:
        self._documents: dict[str, list[str]] = defaultdict(list)
        ends: dict[str, set[str]] = defaultdict(set)
        for id_ in ids:
            key = _key(_PART.sub("", id_))
            self._documents[key].append(id_)
            folders = key.split("/")
            for i in range(1, len(folders)):
                ends["/".join(folders[i:])].add(key)
        self._ends = {end: key for end, (key, *others) in ((end, [*keys]) for end, keys in ends.items()) if not others}
        self.dropped: Counter[str] = Counter()

    def resolve(self, id_: str, target: str) -> tuple[str, ...]:
        """Ids of the document that a link leads to; none if it is not in the set, which is counted.

        Args:
            id_: The document with the link.
            target: Where it leads, as written.
        """
        path = _path(target)
        if path is None:
            self.dropped[ELSEWHERE] += 1
            return ()
        own = _key(_PART.sub("", id_))
        key = self._find(id_, path) if path else own
        if key == own:
            self.dropped[WITHIN] += 1
            return ()
        if key is None:
            self.dropped[NO_DOCUMENT] += 1
            return ()
        return tuple(self._documents[key])

    def _find(self, id_: str, path: str) -> str | None:
        """The key of the document with a path."""
        if not path.startswith("/"):
            relative = _key(posixpath.normpath(posixpath.join(posixpath.dirname(id_), path)))
            if relative in self._documents:
                return relative
        from_root = _key(path.lstrip("/"))
        if from_root in self._documents:
            return from_root
        if not path.startswith("/"):
            return None
        shorter = from_root.partition("/")[2]
        # One name alone says too little about where it is.
        return self._ends.get(from_root) or (self._ends.get(shorter) if "/" in shorter else None)


def _path(target: str) -> str | None:
    """The path in a target, without anchor and query; empty for an anchor alone, None for an address elsewhere."""
    for template in _TEMPLATES:
        if found := template.search(target):
            target = found[1]
    target = _BASE.sub("", target.strip())
    if target.startswith("#") and ".adoc" in target:  # as pandoc writes a link to another document
        target = target.strip("#")
    if _SCHEME.match(target) or "{" in target:
        return None
    return unquote(re.split(r"[#?]", target, maxsplit=1)[0]).removeprefix("~")


def _key(path: str) -> str:
    """A path as it is compared: without suffix, index page and case."""
    folder, _, name = path.casefold().strip("/").rpartition("/")
    name = _SUFFIX.sub("", compression.content_name(name))
    if name in _INDEX:
        return folder
    return f"{folder}/{name}" if folder else name
