"""`mlm-dist search`: the passages of a run's documents that fit a query best, found with its exported model.

    mlm-dist search runs/mine-search "how do I rotate keys"
    mlm-dist search runs/mine-search "how do I rotate keys" --top 10 --json
    mlm-dist search runs/mine-search "how do I rotate keys" --compare start
    mlm-dist search runs/mine-search --serve

The first search indexes all passages in `search/` of the run directory; later ones read the index. --serve serves a
page on this machine, with the results of the trained model, the model before training and BM25 side by side.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from mlm_dist import interruption
from mlm_dist.commands.parser import CommandParser
from mlm_dist.errors import ConfigError, printable
from mlm_dist.terminal import library_messages
from mlm_dist.terminal.console import console, on_stderr, show_log

if TYPE_CHECKING:
    from mlm_dist.search import Hit, RunSearch

SPLITS = ("all", "train", "validation")
COMPARED = ("start", "none")
MAX_TOP = 1000
LINES = 3  # of a passage on the terminal
TITLES = {"trained": "Trained model", "start": "Before training", "bm25": "BM25"}

logger = logging.getLogger(__name__)


def parser() -> CommandParser:
    """The flags of this command."""
    one = CommandParser("search", __doc__)
    one.add_argument("run", metavar="RUN", help="directory of a run with an exported model")
    one.add_argument("query", metavar="QUERY", nargs="?", help="what you look for, in quotes")
    one.add_argument("--top", type=int, default=5, help="passages to show (default: 5)")
    one.add_argument("--split", choices=SPLITS, default="all", help="documents to search in (default: all)")
    one.add_argument(
        "--compare",
        choices=COMPARED,
        help="start: search with the model before training and BM25 as well (default: start for the page, else none)",
    )
    one.add_argument("--json", action="store_true", help="print one JSON object per passage")
    one.add_argument("--serve", action="store_true", help="serve a search page on this machine")
    one.add_argument("--port", type=int, help="port of the page (default: a free one)")
    return one


def main(words: Sequence[str]) -> None:
    """Search as these words say.

    Raises:
        UserError: They are wrong, or the run cannot be searched.
        SystemExit: A signal ended the command.
    """
    arguments = parser().parse_args(words)
    _check(arguments)
    library_messages.silence()
    show_log()
    with on_stderr() if arguments.json else contextlib.nullcontext():
        interruption.begin_job()
        try:
            _run(arguments)
        except BrokenPipeError:  # the reader of the results has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except BaseException as error:
            if not interruption.is_interrupted() or isinstance(error, SystemExit):
                raise
            interruption.leave()
            sys.stderr.write(f"{interruption.message()}\n")
            raise SystemExit(interruption.EXIT_INTERRUPTED) from None


def _check(arguments: argparse.Namespace) -> None:
    """Check what needs no run.

    Raises:
        ConfigError: The flags are wrong.
    """
    if arguments.query is None and not arguments.serve:
        raise ConfigError("search: QUERY is missing; write what you look for in quotes, or --serve for a page")
    if arguments.query is not None and not arguments.query.strip():
        raise ConfigError("search: QUERY is empty; write what you look for")
    if not 1 <= arguments.top <= MAX_TOP:
        raise ConfigError(f"--top: must be from 1 to {MAX_TOP}, got {arguments.top}")
    if arguments.port is not None and not arguments.serve:
        raise ConfigError("--port: has no effect without --serve; add it, or remove --port")
    if arguments.json and arguments.serve:
        raise ConfigError("--json: prints results and --serve shows them on a page; remove one of them")


def _run(arguments: argparse.Namespace) -> None:
    from mlm_dist.search import open_search  # takes seconds; flags are checked before

    start = None if arguments.serve and arguments.compare is None else arguments.compare == "start"
    bm25 = arguments.serve or arguments.compare == "start"
    search = open_search(arguments.run, arguments.split, start=start, bm25=bm25)
    if arguments.serve:
        _serve(search, arguments)
        return
    for model in search.models:
        hits = search.hits(arguments.query, arguments.top, model)
        if arguments.json:
            for rank, hit in enumerate(hits, 1):
                sys.stdout.write(json.dumps({"model": model, "rank": rank, **hit._asdict()}) + "\n")
        else:
            _print(TITLES[model] if len(search.models) > 1 else None, hits)
    sys.stdout.flush()


def _serve(search: RunSearch, arguments: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C."""
    from mlm_dist.search.server import SearchServer

    name = Path(arguments.run).expanduser().resolve().name
    with SearchServer(search, name, TITLES, arguments.port or 0, arguments.top) as server:
        query = "" if arguments.query is None else "?" + urlencode({"q": arguments.query})
        try:
            logger.info("search page: %s%s (Ctrl-C ends it)", server.url, query)
            server.serve_forever()
        except KeyboardInterrupt:
            interruption.leave()  # this is how it is ended


def _print(title: str | None, hits: Sequence[Hit]) -> None:
    from rich.text import Text

    margin = " " * 4
    lines = [] if title is None else [Text(title, "bold underline"), Text()]
    if not hits:
        lines += [Text("No passage has a word of the query."), Text()]
    for rank, hit in enumerate(hits, 1):
        score = f"{hit.score:.3f}"
        lines.append(Text.assemble(f"{rank:>2}  ", (score, "cyan"), "  ", (printable(hit.document), "bold")))
        if hit.heading:
            lines.append(Text(margin + printable(hit.heading), "italic"))
        wrapped = Text(printable(" ".join(hit.text.split()))).wrap(console, max(20, console.width) - len(margin) - 2)
        shown = [line.plain.rstrip() for line in wrapped[:LINES]]
        if len(wrapped) > LINES:
            shown[-1] += " …"
        lines += [*(Text(margin + line) for line in shown), Text()]
    for line in lines:
        console.print(line, soft_wrap=True)
