"""Markup that pandoc passes on as it is: the text that a reader sees of it."""

from __future__ import annotations

import re

from mlm_dist.corpus.html.cleaner import clean as clean_html

_NAMED = re.compile(r"\s*[\w -]{1,50}=")


def text(format_: str, source: str) -> str:
    """The visible text.

    Args:
        format_: The format of the source, as pandoc names it.
        source: The markup.
    """
    if format_.startswith("html"):
        return clean_html(source).text
    if format_ == "mediawiki" and source.startswith("{{"):  # a template and its parameters
        parameters = source.strip("{}").split("|")[1:]
        return " ".join(_NAMED.sub("", parameter, count=1).strip() for parameter in parameters).strip()
    return ""
