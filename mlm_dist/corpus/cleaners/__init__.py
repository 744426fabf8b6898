"""Cleaners: each kind of markup becomes plain text.

`CLEANERS` maps the name of a kind of markup to its class, see `protocol.Cleaner`. The suffix of a file selects one, or
`corpus.clean` names one for all documents of a source.
"""

from __future__ import annotations

import functools
import os

from mlm_dist.corpus.cleaners.protocol import Cleaned, Cleaner
from mlm_dist.errors import ConfigError
from mlm_dist.registry import Registry

CLEANERS: Registry[type[Cleaner]] = Registry(
    "mlm_dist.cleaners",
    {
        "markdown": "mlm_dist.corpus.markdown.cleaner:MarkdownCleaner",
        "rst": "mlm_dist.corpus.rst.cleaner:RstCleaner",
        "html": "mlm_dist.corpus.html.cleaner:HtmlCleaner",
        "asciidoc": "mlm_dist.corpus.pandoc.cleaners:AsciiDocCleaner",
        "latex": "mlm_dist.corpus.pandoc.cleaners:LatexCleaner",
        "mediawiki": "mlm_dist.corpus.pandoc.cleaners:MediaWikiCleaner",
        "org": "mlm_dist.corpus.pandoc.cleaners:OrgCleaner",
        "rtf": "mlm_dist.corpus.pandoc.cleaners:RtfCleaner",
        "textile": "mlm_dist.corpus.pandoc.cleaners:TextileCleaner",
        "typst": "mlm_dist.corpus.pandoc.cleaners:TypstCleaner",
    },
)

__all__ = ["CLEANERS", "Cleaned", "Cleaner", "check", "clean", "markup_of", "suffixes"]


def markup_of(name: str) -> str:
    """The markup of a file by its suffix, a name of `CLEANERS`; none for plain text."""
    return _by_suffix().get(os.path.splitext(name)[1].lower(), "none")


def suffixes() -> list[str]:
    """Suffixes of the files that have markup."""
    return list(_by_suffix())


def check(name: str | None, key: str) -> None:
    """Refuse markup without a cleaner.

    Args:
        name: A name of `CLEANERS`, or none, or None.
        key: The config key that names it, for messages.

    Raises:
        ConfigError: There is no such cleaner.
    """
    if name not in (None, "none") and name not in CLEANERS:
        raise ConfigError(f"{key}: expected none, {', '.join(CLEANERS.names())} or null, got {name}")


def clean(text: str, markup: str) -> Cleaned:
    """Make a document plain text.

    Args:
        text: The document.
        markup: A name of `CLEANERS`; none keeps the text as it is.
    """
    return Cleaned(text) if markup == "none" else _cleaner(markup).clean(text)


@functools.lru_cache(maxsize=1)
def _by_suffix() -> dict[str, str]:
    return {suffix: name for name in CLEANERS.names() for suffix in CLEANERS[name].suffixes}


@functools.lru_cache(maxsize=64)
def _cleaner(name: str) -> Cleaner:
    return CLEANERS[name]()
