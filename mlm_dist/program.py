"""The entry point of `mlm-dist`, which handles signals before it imports anything else."""

from __future__ import annotations

from typing import NoReturn

from mlm_dist import interruption


def main() -> NoReturn:
    """Run the program with this process's arguments, see `cli.main`."""
    interruption.watch()
    from mlm_dist import cli

    cli.main()


if __name__ == "__main__":
    main()
