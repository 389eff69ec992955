"""`histo review`: serve a results folder to one reader."""

from __future__ import annotations

import getpass
import ipaddress
import secrets as random_secrets
import socket
from pathlib import Path

import uvicorn
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table

from histo.errors import ReviewError
from histo.measure.summary import Estimate
from histo.review.actions import ReviewerName
from histo.review.guard import Secrets
from histo.review.server import Desk, make_app
from histo.review.slide import Who
from histo.review.web import page_folder

# Every address of this machine; none that a browser can ask for.
_ANY = ("0.0.0.0", "::")
_READER: TypeAdapter[str] = TypeAdapter(ReviewerName)


def review(
    results: Path,
    *,
    reader: str | None,
    host: str,
    port: int,
    blinded: bool,
    slides: Path | None,
    console: Console,
) -> None:
    """Serve the review page until it is stopped.

    Parameters
    ----------
    results : a results folder of `infer`.
    reader : whose corrections and signature are recorded; None for the user of this machine.
    host : address to listen on; any but loopback is guarded by a token.
    port : 0 takes a free one.
    blinded : hide site, patient, slide names and other readers' corrections; show slides in random order.
    slides : folder where slides are looked for that are not where they were analysed.

    Raises
    ------
    HistoError : the folder cannot be reviewed, the page cannot be built, or the address cannot be had.
    """
    try:
        reader = _READER.validate_python(getpass.getuser() if reader is None else reader)
    except (ValidationError, OSError, KeyError, ImportError):
        raise ReviewError(
            "the reader needs a name of up to 100 characters", fix="Give --reader NAME"
        ) from None
    desk = Desk(results, Who(reader, alone=blinded), slides)
    page = page_folder()
    listener = _listen(host, port)
    port = listener.getsockname()[1]
    loopback = is_loopback(host)
    secrets = Secrets(access=None if loopback else random_secrets.token_urlsafe(24))
    app = make_app(desk, page, hosts=_hosts(host, port), secrets=secrets)
    name = socket.gethostname() if host in _ANY else _in_address(host)
    address = f"http://{name}:{port}/"
    if secrets.access is not None:
        address += f"?token={secrets.access}"
        console.print(
            f"[yellow]{host} can be reached from other machines:[/yellow] whoever has this address and its "
            "token sees the slides and can correct them, and the connection is not encrypted. Leave out "
            "--host to serve this machine alone.",
            soft_wrap=True,
        )
    told = "blinded, " if blinded else ""
    console.print(
        f"Review of {len(desk.cases)} slides by {reader} ({told}Ctrl-C to stop): {address}", soft_wrap=True
    )
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        ws="none",
        limit_concurrency=200,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=32_768,
    )
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        listener.close()


def tell_agreement(results: Path, slides: Path | None, console: Console) -> None:
    """Compare readers, see `readers_agreement`, and print what comes of it."""
    from histo.review.agreement import AGREEMENT_FILE, readers_agreement

    for pair in readers_agreement(results, slides):
        table = Table(
            title=f"{pair.readers[0]} and {pair.readers[1]}: {len(pair.slides)} slides signed by both"
        )
        for heading in ("", "slides", "concordance", "ratio", "95 % limits"):
            table.add_column(heading, justify="left" if heading == "" else "right")
        for density in pair.densities.values():
            ratio = density.ratio
            limits = "" if ratio.low is None or ratio.high is None else f"{ratio.low:.2f} to {ratio.high:.2f}"
            table.add_row(density.label, str(density.n), _told(density.concordance), _told(ratio), limits)
        console.print(table)
        console.print(f"kappa of {pair.n_cells} cells of the run: {_told(pair.kappa_cells)}")
        console.print(f"kappa of phenotypes: {_told(pair.kappa_phenotype)}", soft_wrap=True)
    console.print(f"Agreement: {results / AGREEMENT_FILE}", soft_wrap=True)


def _told(estimate: Estimate) -> str:
    return f"NA ({estimate.not_assessable})" if estimate.value is None else f"{estimate.value:.3f}"


def is_loopback(host: str) -> bool:
    """Tell whether an address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise ReviewError(
            f"cannot listen on {host}, port {port} ({error.strerror or error})", fix="Give another --port"
        ) from None
    return listener


def _hosts(host: str, port: int) -> list[str]:
    """Return what a browser of this server says in its Host header."""
    if is_loopback(host):
        names = ["localhost", "127.0.0.1", "[::1]", _in_address(host)]
    elif host in _ANY:
        own = socket.gethostname()
        names = ["localhost", "127.0.0.1", "[::1]", own, socket.getfqdn()]
        names += _addresses(own)
    else:
        names = [_in_address(host)]
    return [f"{name}:{port}" for name in names]


def _addresses(name: str) -> list[str]:
    try:
        return sorted({_in_address(str(info[4][0])) for info in socket.getaddrinfo(name, None)})
    except OSError:
        return []


def _in_address(host: str) -> str:
    return f"[{host}]" if ":" in host else host
