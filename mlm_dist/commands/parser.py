"""The parser of a command's flags: an error is one line."""

from __future__ import annotations

import argparse
from typing import NoReturn

from mlm_dist.errors import ConfigError


class CommandParser(argparse.ArgumentParser):
    """Parses the words behind `mlm-dist NAME`; no flag may be abbreviated.

    Args:
        name: Name of the command.
        description: What it does, with examples, for --help.
    """

    def __init__(self, name: str, description: str | None) -> None:
        super().__init__(
            f"mlm-dist {name}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self._name = name

    def error(self, message: str) -> NoReturn:
        """See `argparse.ArgumentParser`.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(f"{self._name}: {message}")
