"""Jinja templates of the pages. Every value is escaped; a page is one file that needs no other file and no network."""

from __future__ import annotations

import base64
import functools
import hashlib
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

SCRIPT = "script.js"  # the only script that a page may run: its hash is in the policy


@functools.cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("mlm_dist.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@functools.cache
def content_security_policy() -> str:
    """The policy of every page: no request, inline styles, and no script but `SCRIPT`."""
    script = _environment().get_template(SCRIPT).render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"


def render(name: str, **values: Any) -> str:
    """A page.

    Args:
        name: A file of `templates/`.
        **values: What the template shows.

    Raises:
        jinja2.UndefinedError: The template shows a value that is not given.
    """
    template: Template = _environment().get_template(name)
    return template.render(policy=content_security_policy(), **values)
