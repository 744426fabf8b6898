"""`mlm-dist search`: the passages of a run's documents that answer a query, found by its model.

    mlm-dist search runs/mine-search "how do I rotate keys"
    mlm-dist search runs/mine-search "how do I rotate keys" --top 3 --json
    mlm-dist search runs/mine-search --serve

The first search builds an index in `search/` of the run directory. --serve opens a page on this machine, with the
passages that the model finds beside those that share words with the query.
"""

from __future__ import annotations

import json
import logging
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlm_dist import environment, system_errors
from mlm_dist.commands.parser import CommandParser
from mlm_dist.errors import ConfigError
from mlm_dist.terminal.console import console, show_log

if TYPE_CHECKING:
    from mlm_dist.search.index import Hit

logger = logging.getLogger(__name__)
SPLITS = {"all": ("train", "validation"), "train": ("train",), "validation": ("validation",)}
MAX_TOP = 1000
SHOWN = 300  # characters of a passage


@environment.restored()
@system_errors.explained()
def run(directory: Path | str, query: str, top: int = 5, split: str = "all") -> list[Hit]:
    """The passages of a run's documents that are most similar to a query, best first.

    Args:
        directory: The run directory.
        query: The query.
        top: How many passages.
        split: all, or the documents of train or validation only.

    Raises:
        ConfigError: The query is empty, or the run cannot be searched.
    """
    from mlm_dist.search.of_run import RunSearch  # takes seconds; flags are read before

    if not query.strip():
        raise ConfigError("search: the query is empty; write what you look for, in quotes")
    return RunSearch.of(directory, SPLITS[split]).search(query, top)


@environment.restored()
@system_errors.explained()
def serve(directory: Path | str, top: int, split: str, port: int) -> None:
    """Serve the page until Ctrl-C."""
    from mlm_dist.search import server
    from mlm_dist.search.of_run import RunSearch

    found = RunSearch.of(directory, SPLITS[split])
    try:
        served = server.serve(found, Path(directory).resolve().name, top, port)
    except OSError as error:
        raise ConfigError(f"--port: {port} cannot be used ({error.strerror}); choose another one") from None
    with served:
        console.print(f"http://{server.HOST}:{served.server_port} (Ctrl-C ends it)", markup=False, highlight=False)
        try:
            served.serve_forever()
        except KeyboardInterrupt:
            return


def _text(hit: Hit) -> str:
    """A hit for the terminal: score and place, then the beginning of the passage."""
    heading = f", {hit.passage.heading}" if hit.passage.heading else ""
    head = f"{hit.score:.3f}  {hit.passage.document}{heading}"
    text = textwrap.shorten(hit.passage.text, SHOWN, placeholder=" …")
    width = min(console.width, 100)
    body = textwrap.fill(text, width, initial_indent="       ", subsequent_indent="       ")
    return f"{textwrap.fill(head, width, subsequent_indent='       ')}\n{body}"


def parser() -> CommandParser:
    """The flags of this command."""
    one = CommandParser("search", __doc__)
    one.add_argument("run", metavar="RUN", help="run directory")
    one.add_argument("query", nargs="?", default="", metavar="QUERY", help="what you look for, in quotes")
    one.add_argument("--top", type=int, default=5, help="passages to show (default: 5)")
    one.add_argument("--split", choices=SPLITS, default="all", help="the documents to search (default: all)")
    one.add_argument("--json", action="store_true", help="print a JSON object per passage")
    one.add_argument("--serve", action="store_true", help="open a page on this machine instead")
    one.add_argument("--port", type=int, default=0, help="port of the page (default: a free one)")
    return one


def main(words: Sequence[str]) -> None:
    """Search as these words say.

    Raises:
        UserError: They are wrong, or the run cannot be searched.
    """
    arguments = parser().parse_args(words)
    if not 1 <= arguments.top <= MAX_TOP:
        raise ConfigError(f"--top: must be from 1 to {MAX_TOP}, got {arguments.top}")
    show_log()
    if arguments.serve:
        if arguments.query:
            raise ConfigError("search: --serve has a search box; give no query")
        serve(arguments.run, arguments.top, arguments.split, arguments.port)
        return
    if arguments.port:
        raise ConfigError("--port: has no effect without --serve; remove it")
    hits = run(arguments.run, arguments.query, arguments.top, arguments.split)
    for hit in hits:
        if arguments.json:
            print(json.dumps({"score": hit.score, **hit.passage._asdict()}, ensure_ascii=True), flush=True)
        else:
            console.print(_text(hit), markup=False, highlight=False, soft_wrap=True)
