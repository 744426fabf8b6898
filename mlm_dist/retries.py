"""Repeating what a network or a server interrupted: a few times, with growing waits, and only if that may help."""

from __future__ import annotations

import errno
import logging
import re
import socket
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from mlm_dist.credentials import without_credentials
from mlm_dist.errors import reason

logger = logging.getLogger(__name__)
T = TypeVar("T")

WAITS = (1.0, 2.0, 4.0)  # seconds before the second, third and fourth attempt

# 408: the server waited too long; 425, 429: ask later; 5xx: a server or the proxy before it is overloaded or restarts.
_STATUSES = (408, 425, 429, 500, 502, 503, 504)
_ERRNOS = (errno.ECONNRESET, errno.ECONNABORTED, errno.ECONNREFUSED, errno.EPIPE)
# What s3fs makes of the statuses 500 and 503.
_ERRNOS_OF_STORES = (errno.EBUSY, getattr(errno, "EREMOTEIO", errno.EIO))
# Of aiohttp and botocore.
_NAMES_OF_STORES = ("ServerDisconnectedError", "ClientPayloadError", "IncompleteRead", "ConnectionClosedError")
_NAMES = ("ReadTimeout", "WriteTimeout", "PoolTimeout", "ReadError", "WriteError", "RemoteProtocolError")  # of httpx
_OF_GIT = re.compile(
    r"returned error: (408|425|429|500|502|503|504)\b|early EOF|unexpected disconnect|RPC failed|hung up unexpectedly"
    r"|Connection (reset|refused|timed out|closed)|Operation timed out|Operation too slow|Empty reply from server"
    r"|Recv failure|Send failure|TLS connection was non-properly terminated|SSL_ERROR_SYSCALL|handshake\(\) failed",
    re.IGNORECASE,
)
# What comes with a lost connection but does not go away: no permission, no repository, no commit, no host.
_FINAL_OF_GIT = re.compile(
    r"denied|not found|not appear to be a git|does not exist|not our ref|couldn't find remote ref|resolve host"
    r"|authentication failed|host key verification|could not read Username",
    re.IGNORECASE,
)


def retry(call: Callable[[], T], what: str, is_transient: Callable[[Exception], bool] | None = None) -> T:
    """What a call returns, after up to three more attempts if the error of an attempt is transient.

    Args:
        call: What to do; it leaves nothing behind when it fails, or continues from there.
        what: What is attempted, for the log; credentials are removed.
        is_transient: Whether an error may be gone at the next attempt; `is_transient_of_http` by default.

    Raises:
        Exception: The error of the last attempt, or the first that is not transient.
    """
    is_transient = is_transient or is_transient_of_http
    for attempt, seconds in enumerate(WAITS, 1):
        try:
            return call()
        except Exception as error:
            if not is_transient(error):
                raise
            logger.warning(
                "%s: %s; attempt %d of %d in %.0f s",
                *(without_credentials(what), without_credentials(reason(error)), attempt + 1, len(WAITS) + 1, seconds),
            )
        time.sleep(seconds)
    return call()


def is_transient_of_http(error: BaseException) -> bool:
    """Whether an error of an HTTP library, or one that it caused, is of a busy server or a lost connection.

    A missing page, a missing permission, an unknown host and a host that does not answer at all are not.
    """
    causes = list(_causes(error))
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return False
    return any(
        getattr(getattr(cause, "response", None), "status_code", None) in _STATUSES
        or type(cause).__name__ in _NAMES
        or (isinstance(cause, OSError) and cause.errno in _ERRNOS)
        for cause in causes
    )


def is_transient_of_store(error: BaseException) -> bool:
    """Whether an error of an object store, or one that it caused, is of a busy server or a lost connection."""
    causes = list(_causes(error))
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return False
    return is_transient_of_http(error) or any(
        isinstance(cause, TimeoutError)
        or type(cause).__name__ in _NAMES_OF_STORES
        or (isinstance(cause, OSError) and cause.errno in _ERRNOS_OF_STORES)
        or getattr(cause, "status", None) in _STATUSES
        for cause in causes
    )


def is_transient_of_git(stderr: str) -> bool:
    """Whether what git printed is of a busy server or a lost connection."""
    return _OF_GIT.search(stderr) is not None and _FINAL_OF_GIT.search(stderr) is None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what caused it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
