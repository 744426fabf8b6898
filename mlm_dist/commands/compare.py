"""`mlm-dist compare`: results and differing settings of runs on the terminal, and one HTML page with their curves.

    mlm-dist compare runs/a runs/b
    mlm-dist compare runs/* --output comparison.html --price_per_hour 2.5

The page needs no other file and no network. The comparison says which validation losses are not comparable, and why.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table as RichTable

from mlm_dist import environment, system_errors
from mlm_dist.commands.parser import CommandParser
from mlm_dist.errors import ConfigError
from mlm_dist.files import write_bytes
from mlm_dist.terminal.console import show_log, text_of

if TYPE_CHECKING:
    from mlm_dist.pages.tables import Table

logger = logging.getLogger(__name__)
OUTPUT = "comparison.html"


@environment.restored()
@system_errors.explained()
def run(runs: Sequence[Path | str], output: Path | str = OUTPUT, price_per_hour: float | None = None) -> Path:
    """Compare the runs in these directories; returns the page.

    Args:
        runs: Two run directories or more.
        output: The page to write.
        price_per_hour: Price of an hour of training, in any currency, for the cost per million tokens.

    Raises:
        ConfigError: One of them does not exist or is damaged, or fewer than two hold a run.
    """
    from mlm_dist.pages.compared_runs import ComparedRun  # takes seconds; flags are read before
    from mlm_dist.pages.comparison_page import RunComparison, comparison_page

    if price_per_hour is not None and not 0 < price_per_hour < float("inf"):
        raise ConfigError(f"--price_per_hour: must be over 0, got {price_per_hour:g}")
    page = Path(output).expanduser()
    if page.is_dir() or not page.parent.is_dir():
        raise ConfigError(f"--output: {page} is a folder, or in none; name a file such as {OUTPUT}")
    found = _directories([Path(one).expanduser() for one in runs])
    names = _names(found)
    comparison = RunComparison([ComparedRun.read(*pair) for pair in zip(found, names, strict=True)], price_per_hour)
    text = comparison_page(comparison)
    write_bytes(page, text.encode("utf-8", "backslashreplace"), durable=False)
    tables = [comparison.results, comparison.settings]
    logger.info("\n\n".join(text_of(_shown(table)) for table in tables if table is not None))
    for note in comparison.notes:
        logger.warning(note)
    logger.info("page: %s", page)
    return page


def _directories(paths: Sequence[Path]) -> list[Path]:
    """The run directories among paths, each once; others that exist are named in the log.

    Raises:
        ConfigError: A path does not exist, or fewer than two are left.
    """
    for path in paths:
        if not path.exists():
            raise ConfigError(f"{path} does not exist; name the directories of runs, such as runs/a runs/b")
    unique = list({path.resolve(): path for path in paths}.values())
    found = [path for path in unique if (path / "metrics.jsonl").is_file()]
    for path in unique:
        if path not in found:
            logger.warning("%s is not compared: it has no metrics.jsonl", path)
    if len(found) < 2:
        raise ConfigError(f"compare needs two runs, got {len(found)}; name their directories: runs/a runs/b")
    return found


def _names(paths: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as tell them apart."""
    parts = [path.resolve().parts for path in paths]
    depth = next(n for n in range(1, max(map(len, parts)) + 1) if len({one[-n:] for one in parts}) == len(parts))
    return ["/".join(one[-depth:]) for one in parts]


def _shown(table: Table) -> RichTable:
    shown = RichTable(title=table.caption, title_justify="left")
    for i, head in enumerate(table.heads):
        is_number = table.numbers and i > 0
        shown.add_column(head, justify="right" if is_number else "left", overflow="fold", no_wrap=not i)
    for row in table.rows:
        shown.add_row(*row)
    return shown


def parser() -> CommandParser:
    """The flags of this command."""
    one = CommandParser("compare", __doc__)
    one.add_argument("runs", nargs="+", metavar="RUN", help="run directories")
    one.add_argument("--output", default=OUTPUT, help=f"the page to write (default: {OUTPUT})")
    one.add_argument("--price_per_hour", type=float, help="price of an hour of training, for the cost per token")
    return one


def main(words: Sequence[str]) -> None:
    """Compare the runs that these words name.

    Raises:
        UserError: They are wrong, or a run is damaged.
    """
    arguments = parser().parse_args(words)
    show_log()
    run(arguments.runs, arguments.output, arguments.price_per_hour)
