"""The search page: a small server that answers this machine only."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from mlm_dist import __version__
from mlm_dist.corpus.passages import shortened
from mlm_dist.errors import ConfigError, reason
from mlm_dist.pages.jinja import content_security_policy, render
from mlm_dist.search.of_run import WORDS, RunSearch

ADDRESS = "127.0.0.1"
# What a browser may call this machine. A page elsewhere can make a name of its own lead to this address, and would then
# read the answer. The port may be another one: that of an SSH tunnel.
NAMES = (ADDRESS, "localhost")
MAX_QUERY = 2000  # characters
SHOWN_WORDS = 45  # of a passage, before it is opened
SECONDS = 30.0  # for which a browser may say nothing
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

logger = logging.getLogger(__name__)


class SearchServer(ThreadingHTTPServer):
    """Serves the search page on the loopback address.

    Args:
        search: The search.
        name: Name of the run.
        titles: {model: title of its column}.
        port: The port; 0 takes a free one.
        top: Passages of each model.

    Raises:
        ConfigError: The port cannot be used.
    """

    daemon_threads = True

    def __init__(self, search: RunSearch, name: str, titles: Mapping[str, str], port: int = 0, top: int = 5) -> None:
        self._search, self._name, self._titles, self._top = search, name, titles, top
        try:
            super().__init__((ADDRESS, port), _Handler)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"--port: cannot use {port} ({reason(error)}); choose another one, or 0 for a free one"
            ) from None

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{ADDRESS}:{self.server_port}/"

    def page(self, query: str) -> str:
        """The page as HTML, with the passages for a query if it is not empty; all text is escaped."""
        columns = []
        for model in self._search.models if query else []:
            digits = 1 if model == WORDS else 3
            hits = self._search.hits(query, self._top, model)
            shown = [(f"{hit.score:.{digits}f}", hit, _beginning(hit.text)) for hit in hits]
            columns.append((model, self._titles[model], shown))
        return render(
            "search.html.jinja",
            title=f"Search {self._name}",
            status=f"{len(self._search):,} passages",
            warnings=[],
            reload=None,
            footer=f"mlm_dist {__version__}. Scores of a model are cosine similarities; those of BM25 count words in "
            "common. Scores of one column cannot be compared with those of another. Queries stay on this machine.",
            query=query,
            max_query=MAX_QUERY,
            columns=columns,
            sections=[(model, title) for model, title, _ in columns],
        )

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log one line, and nothing if the browser closed its connection."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, ConnectionError | TimeoutError):
            logger.error("a request failed: %s: %s", type(error).__name__, reason(error))


def _beginning(text: str) -> str | None:
    """The first words of a passage; None if they are all."""
    start = shortened(text, SHOWN_WORDS)
    return None if len(start) == len(text) else f"{start} …"


class _Handler(BaseHTTPRequestHandler):
    server: SearchServer
    server_version, sys_version = "mlm_dist", ""
    timeout = SECONDS

    def do_GET(self) -> None:
        """Answer with the page."""
        if self.headers.get("Host", "").lower().split(":")[0] not in NAMES:
            self.send_error(HTTPStatus.FORBIDDEN)
            return
        try:
            address = urlsplit(self.path)
            values = parse_qs(address.query, max_num_fields=8)
        except ValueError:
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        if address.path != "/":
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        try:
            html = self.server.page(" ".join(values.get("q", [""])[0].split())[:MAX_QUERY])
        except Exception as error:
            logger.error("a search failed: %s: %s", type(error).__name__, reason(error))
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR)
            return
        self._answer(HTTPStatus.OK, "text/html", html)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer with the name of an error, and nothing that the request or this process said."""
        status = HTTPStatus.METHOD_NOT_ALLOWED if code == HTTPStatus.NOT_IMPLEMENTED else HTTPStatus(code)
        self.close_connection = True
        self._answer(status, "text/plain", f"{status.value} {status.phrase}\n")

    def _answer(self, status: HTTPStatus, kind: str, text: str) -> None:
        body = text.encode("utf-8", "replace")
        policy = f"{content_security_policy()}; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", policy)
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET")
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: queries are nobody else's business."""
