"""The embedded corpus: the interpreter's own help topics and the docstrings of its standard library."""

from __future__ import annotations

import ast
import json
import os
import platform
import sysconfig
import warnings
from pathlib import Path
from typing import ClassVar

from mlm_dist.corpus.sources.protocol import Fetched, Request
from mlm_dist.files import lock, write_bytes

NAME = "python-docs"
_EXCLUDED = {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "__pycache__", "idle_test"}


class PythonDocs:
    """The source of that name; it needs no network."""

    is_local: ClassVar[bool] = True

    def recognizes(self, name: str, key: str) -> bool:
        """See `Source`."""
        return name == NAME

    def fetch(self, request: Request) -> Fetched:
        """See `Source`."""
        path = write(request.folder)
        return Fetched(request.name, path.parent, request.patterns, files=[path.name])


def write(cache: Path) -> Path:
    """Write the documents as .jsonl once per interpreter, and return the file. About 550 documents, 2.3 MB."""
    folder = cache / f"{NAME}-{platform.python_version()}"
    path = folder / f"{NAME}.jsonl"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        # Another run may be writing the file. A second write would look to that run like a change of its source.
        held = lock(folder / ".lock", wait=True)
        try:
            if not path.is_file():
                write_bytes(path, "".join(json.dumps({"text": text}) + "\n" for text in documents()).encode())
        finally:
            held.release()
    return path


def documents() -> list[str]:
    """Help topics in the order of their names, then one document per module with all its docstrings."""
    from pydoc_data.topics import topics

    root = Path(sysconfig.get_path("stdlib"))
    modules = []
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if name not in _EXCLUDED and not name.startswith("config-"))
        modules += [Path(folder, name) for name in sorted(files) if name.endswith(".py")]
    return [topics[name] for name in sorted(topics)] + [text for path in modules if (text := _docstrings(path))]


def _docstrings(path: Path) -> str:
    """All docstrings of a source file in order; the file is parsed and never run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in strings of the library
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return ""
    nodes = [
        n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    nodes.sort(key=lambda node: getattr(node, "lineno", 0))
    return "\n\n".join(text for node in nodes if (text := ast.get_docstring(node)))
