"""A page on this machine with a search box: passages found by the model, beside those found by words."""

from __future__ import annotations

import logging
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from mlm_dist import __version__
from mlm_dist.pages.jinja import render
from mlm_dist.search.of_run import RunSearch

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")  # what a browser may call this machine; another name may be that of a foreign page
MAX_QUERY = 2000  # characters

logger = logging.getLogger(__name__)


def serve(search: RunSearch, name: str, top: int, port: int = 0) -> ThreadingHTTPServer:
    """A server of the page, which other machines cannot reach; it answers once `serve_forever` is called.

    Args:
        search: The search of a run.
        name: Name of the run.
        top: Passages to show in each column.
        port: Its port; 0 for a free one.

    Raises:
        OSError: The port is in use.
    """

    class Handler(BaseHTTPRequestHandler):
        """Answers one request."""

        def do_GET(self) -> None:
            """Send the page."""
            address = urlsplit(self.path)
            if self.headers.get("Host", "").rsplit(":", 1)[0] not in NAMES:
                self._send(403, "this page is for this machine only", "text/plain")
            elif address.path != "/":
                self._send(404, "there is no such page", "text/plain")
            else:
                query = " ".join(parse_qs(address.query).get("q", [""])[0].split())[:MAX_QUERY]
                try:
                    text = page(search, name, query, top)
                except Exception:
                    logger.exception("a search failed")
                    self._send(500, "the search failed; the terminal says why", "text/plain")
                else:
                    self._send(200, text, "text/html")

        def _send(self, status: int, text: str, kind: str) -> None:
            body = text.encode("utf-8", "replace")
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("X-Frame-Options", "DENY")
            self.send_header("Referrer-Policy", "no-referrer")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *values: object) -> None:
            """Log nothing: queries are nobody's business."""

    return ThreadingHTTPServer((HOST, port), Handler)


def page(search: RunSearch, name: str, query: str, top: int) -> str:
    """The page, with the passages for a query if it is not empty."""
    columns = []
    if query:
        columns = [
            {"title": "By meaning", "hits": search.search(query, top)},
            {"title": "By words (BM25)", "hits": search.search_words(query, top)},
        ]
    return render(
        "search.html.jinja",
        title=f"Search {name}",
        status=f"{len(search.index):,} passages",
        warnings=[],
        reload=None,
        footer=f"mlm_dist {__version__}",
        query=query,
        columns=columns,
    )
