"""What stands before every request: who may ask, from where, and how much; and what every answer carries."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# The largest outline that is taken, with room to spare.
MAX_BODY: Final = 2 << 20
MAX_URL: Final = 4096
WRITE_HEADER: Final = "x-histo-write"
COOKIE: Final = "histo_access"

_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    # Slides and results are a patient's: no browser keeps them.
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Secrets:
    """The secrets of one server.

    access : needed by whoever asks, where the server can be reached from other machines; else None.
    write : a page that may read from the server learns it, a foreign one does not; needed to write.
    """

    access: str | None = None
    write: str = field(default_factory=lambda: secrets.token_urlsafe(24))


class Guard:
    """ASGI middleware.

    - The Host header names this server: no foreign name is resolved to it (DNS rebinding).
    - Where an access token is set, it is asked for, once in the address and from then on in a cookie.
    - Pages of other origins get nothing, and no write goes without the header that only our page can send.
    - Bodies and addresses are bounded.
    """

    def __init__(self, app: ASGIApp, *, hosts: Sequence[str], secrets: Secrets) -> None:
        self._app = app
        self._hosts = {host.casefold() for host in hosts}
        self._secrets = secrets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        refused = self._refused(scope)
        if refused is None and scope["method"] not in ("GET", "HEAD"):
            body = await _body(receive)
            if body is None:
                refused = _no(413, f"more than {MAX_BODY >> 20} MiB")
            else:
                receive = _once(body)
        answer = refused or self._app
        await answer(scope, receive, send_with_headers)

    def _refused(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MAX_URL:
            return _no(414, "the address is too long")
        host = headers.get("host", "")
        if host.casefold() not in self._hosts:
            return _no(421, "this is not the server of that name")
        refused = self._without_access(scope, headers)
        if refused is not None:
            return refused
        origin = headers.get("origin")
        foreign = origin is not None and origin.casefold() not in {f"http://{host}", f"https://{host}"}
        site = headers.get("sec-fetch-site", "same-origin")
        opened = scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate"
        if foreign or (site not in ("same-origin", "none") and not opened):
            return _no(403, "pages of other origins get nothing here")
        if scope["method"] in ("GET", "HEAD"):
            return None
        if scope["method"] != "POST":
            return _no(405, "no such method")
        if headers.get("content-type", "").split(";")[0].strip() != "application/json":
            return _no(415, "only JSON is taken")
        if not _same(headers.get(WRITE_HEADER, ""), self._secrets.write):
            return _no(403, "the write token is missing or of an earlier server: load the page again")
        length = headers.get("content-length", "0")
        if not length.isdigit() or len(length) > 12 or int(length) > MAX_BODY:
            return _no(413, f"more than {MAX_BODY >> 20} MiB")
        return None

    def _without_access(self, scope: Scope, headers: Headers) -> Response | None:
        """Refuse who has no access; turn the token in an address into a cookie."""
        wanted = self._secrets.access
        if wanted is None:
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if given and scope["path"] == "/" and _same(given, wanted):
            answer = RedirectResponse("/", status_code=303)
            answer.set_cookie(COOKIE, wanted, httponly=True, samesite="strict", path="/")
            return answer
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            cookie = None
        if cookie is not None and _same(cookie.value, wanted):
            return None
        return _no(401, "open the address with its token, as histo review printed it")


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(), wanted.encode())


def _no(status: int, why: str) -> Response:
    return JSONResponse({"error": why}, status_code=status)


async def _body(receive: Receive) -> bytes | None:
    """Return the body of a request; None where it is too large."""
    body: bytes = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if len(body) > MAX_BODY:
            return None
        if not message.get("more_body", False):
            return body


def _once(body: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive
