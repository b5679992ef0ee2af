"""Serves the files of the page, and nothing else: no data, no parameters, no token."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_FILES = Path(__file__).parent / "page"
#: The page loads nothing from elsewhere and runs no inline script. Only Airflow's own pages may embed it.
_POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "connect-src": "'self'",
    "img-src": "'self'",
    "frame-ancestors": "'self'",
    "base-uri": "'none'",
    "form-action": "'self'",
}
_HEADERS = {
    b"content-security-policy": "; ".join(f"{name} {value}" for name, value in _POLICY.items()).encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"same-origin",
    # An upgrade of the package changes several files at once; each is asked for again by its ETag.
    b"cache-control": b"no-cache",
}


class StaticPage:
    """The ASGI application of the page. It imports Starlette at the first request."""

    def __init__(self) -> None:
        self._files: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._files is None:
            from starlette.middleware.exceptions import ExceptionMiddleware
            from starlette.staticfiles import StaticFiles

            self._files = ExceptionMiddleware(StaticFiles(directory=_FILES, html=True))

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers: list[Any] = message.setdefault("headers", [])
                headers += _HEADERS.items()
            await send(message)

        await self._files(scope, receive, send_with_headers)
