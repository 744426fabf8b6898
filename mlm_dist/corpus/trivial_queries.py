"""Queries that say too little about what they ask for."""

from __future__ import annotations

import re

MIN_WORDS, MAX_WORDS = 2, 40
ADDRESS, FEW_WORDS, MANY_WORDS, GENERIC = (
    "query is an address",
    f"query under {MIN_WORDS} words",
    f"query over {MAX_WORDS} words",
    "query of generic words",
)

_GENERIC_WORDS = """
a about above additional advanced all also an and appendix are article articles background basic basics be
before begin below best by can changelog click common conclusion content contents details do doc docs document
documentation example examples faq faqs for from further general get getting guide guides help here how in
information install installation intro introduction is it its learn link links list more new next note notes
of on options or other our out overview page part point prerequisite prerequisites quick quickstart read
reading reference references related requirements resource resources sample samples section see setup site
source start started step steps summary table that the there these this those tip tips to topic topics
tutorial tutorials up usage use used using version versions view warning we what when where why with you your
"""
GENERIC_WORDS = frozenset(_GENERIC_WORDS.split())
"""Words of headings and links that any document may have, such as "See also", "Next steps" or "this article"."""

_WORD = re.compile(r"[^\W\d_]+")
_ADDRESS = re.compile(r"\w+://\S*|www\.\S+|\S+@\S+\.\S+|[\w.~-]*/[\w./~-]*")
# Letters of scripts without spaces, in which two characters are about a word.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_UNSPACED = re.compile(f"[{UNSPACED}]")


def key(query: str) -> str:
    """A query as queries are compared: its letters and digits, in lower case."""
    return " ".join(re.findall(r"\w+", query.casefold()))


def fault(query: str) -> str | None:
    """Why a title, heading or text of a link is no query; None if it is one."""
    if _ADDRESS.fullmatch(query.strip()):
        return ADDRESS
    words = _WORD.findall(_UNSPACED.sub(" ", query.casefold()))
    count = len(words) + len(_UNSPACED.findall(query)) // 2
    if count < MIN_WORDS:
        return FEW_WORDS
    if count > MAX_WORDS:
        return MANY_WORDS
    return GENERIC if len(words) == count and GENERIC_WORDS.issuperset(words) else None
