"""Users, passwords and tokens in the addresses that a text holds."""

from __future__ import annotations

import re
from urllib.parse import unquote


def without_credentials(text: str) -> str:
    """A text with the addresses in it without passwords, tokens and queries; in URLs without the user name, too.

    Passwords with characters that should be escaped, such as / ? and @, are removed whole.
    """
    with_urls = re.sub(r"(?<=\w://)[^\s'\"]+", lambda rest: _without_user(rest[0]), text)
    return re.sub(r"^[^/@:\s]*:(?!//)\S*@(?=[\w.-]+(:|$))", "", with_urls)


def split_credentials(address: str) -> tuple[str, str, str]:
    """An address that may stand on a command line, with the user and the password that were in it, unquoted.

    ssh takes a user and no password, so the user stays in its address.
    """
    scheme, separator, rest = address.partition("://")
    end = _end_of_user(rest) if scheme.lower() in ("https", "ssh") and separator else 0
    if not end:
        return address, "", ""
    user, _, password = rest[: end - 1].partition(":")
    if scheme.lower() == "ssh":
        return f"{scheme}://{user}@{rest[end:]}", "", ""
    return f"{scheme}://{rest[end:]}", unquote(user), unquote(password)


def _without_user(rest: str) -> str:
    """What follows :// in a URL, without user, password and query."""
    return re.sub(r"\?[^#]*", "", rest[_end_of_user(rest) :])


def _end_of_user(rest: str) -> int:
    """Where the host begins in what follows :// in a URL."""
    authority = re.split(r"[/?#]", rest)[0]
    ends = [match.end() for match in re.finditer("@", rest)]
    # An @ may be in a path, behind a host whose port is a number. A password ends at the last @ before a host.
    if ends and ("@" in authority or re.search(r":(?!\d*$)", authority)):
        hosts = [
            end for end in ends if re.match(r"(\[[\da-f:]+\]|localhost|[\w-]+(\.[\w-]+)+)(:\d+)?([/?#:]|$)", rest[end:])
        ]
        return (hosts or ends)[-1]
    return 0
