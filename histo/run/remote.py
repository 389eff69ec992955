"""Slides on S3 and other stores that fsspec knows: what lies there, under which address, in which version."""

from __future__ import annotations

import hashlib
import logging
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import fsspec
from fsspec.core import has_magic

from histo.errors import ConfigError, HistoError, SlideError
from histo.regions.annotations import annotation_names
from histo.slide import find_slides, slide_parts
from histo.slide.find import SUFFIXES

log = logging.getLogger("histo")

Info = Mapping[str, Any]

# Bare protocols of a chain ("simplecache::"), the link that has a path, and the links that it lies in.
_CHAIN = re.compile(r"((?:\w+::)*)(.*?)(::.*|)", re.DOTALL)
# What stands before the @ is a container there.
_AZURE = ("abfs", "abfss", "wasb", "wasbs")
_ZARR_METADATA = ("zarr.json", ".zattrs", ".zgroup")
# Files whose beginning says what belongs together, and how much of it is read.
_TELLING_BYTES = {".dcm": 1 << 20, ".vms": 1 << 20, ".vmu": 1 << 20, **dict.fromkeys(_ZARR_METADATA, 1 << 24)}
# What stores call a checksum, and the time of the last change; names in lower case.
_CHECKSUMS = ("md5hash", "content-md5", "content_md5", "etag", "crc32c", "digest", "sha", "crc")
_TIMES = (
    *("last-modified", "lastmodified", "last_modified", "mtime", "updated", "modify", "modified"),
    *("modificationtime", "modification_time", "created"),
)
# Of slides of so many files what the store says of each is asked for one by one.
MANY_FILES = 64
CHECK = "Check the address, the network, and what gives access to the store"


@dataclass(frozen=True)
class RemoteFile:
    """A file of a slide.

    name : from the folder that the slide lies in, with "/".
    key : what the store calls it. It may hold what gives access.
    size : in bytes; None where the store does not say.
    version : changes with the content; None where the store says nothing that does.
    """

    name: str
    key: str = field(repr=False)
    size: int | None
    version: str | None


@dataclass(frozen=True)
class RemoteSlide:
    """A slide in a store, with the annotations beside it.

    name : of the file or folder that is opened.
    address, folder : of the slide and of what it lies in, without user, password and query: to be told.
    url : an address in this store with what gives access: never told.
    error : why there are no files.
    """

    name: str
    address: str
    folder: str
    url: str = field(repr=False)
    files: tuple[RemoteFile, ...] = ()
    annotations: tuple[RemoteFile, ...] = ()
    error: str | None = None

    @property
    def n_bytes(self) -> int:
        """Bytes of all files, as far as the store says."""
        return sum(file.size or 0 for file in (*self.files, *self.annotations))

    @property
    def version(self) -> str | None:
        """What changes with the content of slide or annotations; None where the store does not say."""
        files = (*self.files, *self.annotations)
        if not self.files or any(file.version is None for file in files):
            return None
        lines = [f"{file.name}\0{file.size}\0{file.version}" for file in files]
        return hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "surrogatepass")).hexdigest()

    def tell(self, text: str | Path, copy: Path) -> str:
        """Return a text, or a path, with the slide's address in place of the path of its copy.

        A `copy` that is not absolute stands for one that is not there.
        """
        if not copy.is_absolute():
            return self.address if text == copy else str(text)
        return str(text).replace(str(copy), self.address).replace(str(copy.parent), self.folder)


def is_remote(text: str | Path) -> bool:
    """Tell an address of a store from a path."""
    return "://" in str(text)


def told(url: str) -> str:
    """Return an address without user, password and query: what may be printed and written."""
    return "::".join(_told_link(link) for link in url.split("::"))


def find_remote(urls: Sequence[str]) -> list[RemoteSlide]:
    """List the slides of addresses in stores, by the same rules as `find_slides` those of folders.

    Taken are slides, folders, OME-Zarr folders, and patterns with `*`. A slide that is not there, or whose
    store does not answer, is listed with its `error`: it stops no other.

    Raises
    ------
    ConfigError : the driver of a store is not installed, or fsspec knows no such store.
    SlideError : a folder that is not there, or whose store does not answer.
    """
    found: dict[str, RemoteSlide] = {}
    silent: dict[str, str] = {}
    for store in {open_store(url)[0] for url in urls}:
        # What an earlier run in this process has listed may have changed.
        store.invalidate_cache()
    for url in urls:
        for slide in _find(url, silent):
            found.setdefault(slide.address, slide)
    return list(found.values())


def open_store(url: str) -> tuple[Any, str]:
    """Return the fsspec filesystem of an address and the path in it; ConfigError where there is none."""
    options: dict[str, Any] = {}
    if _is_http(url):
        import aiohttp

        # By default no download may take longer than five minutes.
        patience = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
        options["client_kwargs"] = {"timeout": patience}
    try:
        store, path = fsspec.url_to_fs(url, **options)
    except ImportError as error:
        package = (getattr(error.__cause__, "name", None) or "").partition(".")[0]
        raise ConfigError(
            f"{told(url)}: the driver of this store is not installed",
            fix=f"pip install {package}" if package else str(error),
        ) from None
    except ValueError as error:
        raise ConfigError(
            f"{told(url)}: no such kind of store ({reason_of(error, url)})",
            fix="Use e.g. s3://, gs://, az:// or https://",
        ) from None
    return store, path


def version_of(info: Info) -> str | None:
    """Return what a store says of a file that changes with its content: a checksum, else a time."""
    known = {str(key).lower(): value for key, value in info.items()}
    for name in (*_CHECKSUMS, *_TIMES):
        value = known.get(name)
        if isinstance(value, datetime):
            value = value.timestamp()
        if value:
            return f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}".replace('"', "")
    return None


def reason_of(error: BaseException, url: str) -> str:
    """Say why a store failed, without what gives access to it."""
    # Over HTTP, fsspec finds no file whatever the reason, which is the cause.
    hidden = error.__cause__ if isinstance(error, FileNotFoundError) else None
    text = ": ".join(" ".join(str(each).split()) or type(each).__name__ for each in (error, hidden) if each)
    for link in url.split("::"):
        before, _, query = link.partition("://")[2].partition("?")
        user = before.partition("/")[0].rpartition("@")[0]
        for secret in (query, unquote(query), user if ":" in user else "", user.partition(":")[2]):
            text = text.replace(secret, "...") if secret else text
    # A driver may write an address in its own way.
    return re.sub(r"(\w+://)(?:[^/\s'\"@]*:[^/\s'\"]*@)?([^\s'\"?]*)(\?[^\s'\"]*)?", r"\1\2", text)


def is_final(error: BaseException) -> bool:
    """Tell whether asking again is in vain: there is no such file, or no access to it."""
    if not isinstance(error, FileNotFoundError | PermissionError):
        return False
    # Over HTTP, fsspec finds no file where it finds no server.
    cause = error.__cause__
    return not type(cause).__module__.startswith("aiohttp") or getattr(cause, "status", 0) in (403, 404, 410)


def _told_link(link: str) -> str:
    scheme, separator, rest = link.partition("://")
    host, slash, path = rest.partition("?")[0].partition("/")
    if scheme not in _AZURE:
        host = host.rpartition("@")[2]
    return f"{scheme}{separator}{host}{slash}{path}"


def _is_http(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def _split(url: str) -> tuple[str, str, str]:
    """Return the path in an address, with what stands before and after it."""
    match = _CHAIN.fullmatch(url)
    assert match is not None
    before, link, after = match.groups()
    path, question, query = link.partition("?")
    return before, path, f"{question}{query}{after}"


def _parent(url: str) -> str:
    before, path, after = _split(url)
    return f"{before}{path.rstrip('/').rpartition('/')[0]}/{after}"


def _child(url: str, name: str) -> str:
    before, path, after = _split(url)
    return f"{before}{path}{'' if path.endswith('/') else '/'}{name}{after}"


def _name(url: str) -> str:
    name = _split(url)[1].rstrip("/").rpartition("/")[2]
    return unquote(name) if _is_http(url) else name


def _is_slide(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def _find(url: str, silent: dict[str, str]) -> list[RemoteSlide]:
    """List the slides of an address; `silent` keeps the folders whose store did not answer, and why."""
    store, path = open_store(url)
    folder = told(_parent(url))
    try:
        # Waiting for each of many slides could take the night.
        reason = silent.get(folder)
        if reason is None:
            return _search(store, path, url)
    except HistoError:
        raise
    except Exception as error:  # every driver has its own
        reason = reason_of(error, url)
        if is_final(error):
            reason = f"no such file or folder, or no access to it: {reason}"
        else:
            silent[folder] = reason
    if _is_slide(_name(url)) and "*" not in _name(url):
        return [RemoteSlide(_name(url), told(url), folder.rstrip("/"), url, error=reason)]
    raise SlideError(f"{told(url)}: it cannot be listed ({reason})", fix=CHECK)


def _search(store: Any, path: str, url: str) -> list[RemoteSlide]:
    pattern = "*" in path if _is_http(url) else has_magic(path)
    if pattern and not store.exists(path):
        until = min(url.find(sign) for sign in "*?[" if sign in url)
        base_url = url[: url.rindex("/", 0, until) + 1]
        base = open_store(base_url)[1]
        names = {hit: _below(base, hit) for hit in sorted(store.glob(path))}
        hits = [(hit, _child(base_url, name)) for hit, name in names.items() if not name.startswith(".")]
        return [slide for hit, hit_url in hits for slide in _search(store, hit, hit_url)]
    name, folder_url = _name(url), _parent(url)
    if _is_http(url) and not _is_slide(name) and not url.endswith("/"):
        # Asked whether it is a folder, fsspec would fetch it, whatever its size.
        raise SlideError(
            f"{told(url)}: neither a slide file nor a folder", fix="Write / at the end of a folder's address"
        )
    if _is_slide(name) or not (_is_http(url) or store.isdir(path)):
        files = _beside(store, folder_url, name)
        if name not in files:
            raise FileNotFoundError(name)
        return _slides(store, folder_url, files, set(), name)
    files, zarrs = _listed(store, path)
    if "" not in zarrs:
        return _slides(store, _child(url, ""), files, zarrs, "")
    files = {f"{name}/{rest}": info for rest, info in files.items()}
    return _slides(store, folder_url, files | _beside(store, folder_url, name), {name}, name)


def _below(folder: str, key: str) -> str:
    """Return the path of a file from a folder, or "" where it is not below it."""
    folder, key = folder.strip("/"), key.strip("/")
    if not folder:
        return key
    return key.removeprefix(f"{folder}/") if key.startswith(f"{folder}/") else ""


def _listed(store: Any, top: str, *, whole: bool = False) -> tuple[dict[str, Info], set[str]]:
    """List the files below a folder by their path from there, and the Zarr folders among them.

    Of Zarr only the metadata is listed, unless the `whole` is asked for. fsspec's own `walk` and `find` leave
    out folders that cannot be read.
    """
    files: dict[str, Info] = {}
    zarrs: set[str] = set()
    waiting = [(top, "")]
    while waiting:
        folder, inside = waiting.pop()
        here: dict[str, Info] = {}
        below: list[tuple[str, str]] = []
        for info in store.ls(folder, detail=True):
            # Pages over HTTP have links to anywhere.
            name = _below(folder, info["name"])
            rest = f"{inside}/{name}" if inside else name
            hidden = name.startswith(".") and not whole and name not in _ZARR_METADATA
            if not name or "/" in name or name in (".", "..") or hidden:
                continue
            if info["type"] == "directory":
                below.append((info["name"], rest))
            else:
                here[rest] = info
        metadata = {rest: info for rest, info in here.items() if rest.rpartition("/")[2] in _ZARR_METADATA}
        if metadata and not whole:
            zarrs.add(inside)
            files |= metadata
        else:
            files |= here
            waiting += below
    return files, zarrs


def _beside(store: Any, folder_url: str, name: str) -> dict[str, Info]:
    """List a slide's file and what can belong to it in its folder, as far as they are there."""
    folder = open_store(folder_url)[1]
    stem, suffix = PurePosixPath(name).stem, PurePosixPath(name).suffix.lower()
    wanted = {name, *annotation_names(name)}
    files: dict[str, Info] = {}
    try:
        listing = None if _is_http(folder_url) else store.ls(folder, detail=True)
    except PermissionError:
        # Whoever may read a file need not be allowed to list its folder.
        listing = None
    if listing is None:
        for other in sorted(wanted):
            key = open_store(_child(folder_url, other))[1]
            try:
                info = {**store.info(key), "name": key}
            except Exception as error:
                if not is_final(error):
                    raise
            else:
                files |= {other: info} if info["type"] == "file" else {}
    else:
        for info in listing:
            other = _below(folder, info["name"])
            belongs = suffix in (".vms", ".vmu") or (suffix == ".dcm" and other.lower().endswith(suffix))
            if info["type"] != "directory" and (other in wanted or belongs):
                files[other] = info
    if suffix == ".mrxs":
        companion = open_store(_child(folder_url, stem))[1]
        files |= {f"{stem}/{rest}": info for rest, info in _listed(store, companion, whole=True)[0].items()}
    return files


def _slides(
    store: Any, base_url: str, files: Mapping[str, Info], zarrs: set[str], target: str
) -> list[RemoteSlide]:
    """Find slides among files, which are named by their path from `base_url`; `target`: one of them, "": all.

    A sketch of the folder is made on disk (names, and the beginnings that tell what belongs together), so
    that what makes a slide is known in one place only.
    """
    with tempfile.TemporaryDirectory(prefix="histo-list-") as temporary:
        top = Path(temporary).resolve() / "top"
        top.mkdir()
        there: dict[str, Info] = {}
        for given, info in files.items():
            rest = unquote(given) if _is_http(base_url) else given
            if _sketch(store, top, rest, info):
                there[rest] = info
            else:
                log.warning("%s: passed over; no file here can be called so", told(_child(base_url, given)))
        if target and target not in there and target not in zarrs:
            raise FileNotFoundError(target)
        slides = []
        for path in find_slides([top / target]):
            inside = path.parent.relative_to(top).as_posix()
            folder_url = base_url if inside == "." else _child(base_url, inside)
            address = told(_child(folder_url, path.name))
            slide = RemoteSlide(path.name, address, told(folder_url).rstrip("/"), folder_url)
            before = "" if inside == "." else f"{inside}/"
            is_zarr = f"{before}{path.name}" in zarrs
            try:
                slides.append(_with_files(store, slide, path, before, there, is_zarr=is_zarr))
            except Exception as error:  # every driver has its own
                slides.append(replace(slide, error=reason_of(error, base_url)))
    return slides


def _sketch(store: Any, top: Path, rest: str, info: Info) -> bool:
    """Make a file of the same name, with what of its content is telling; False where none can be named so."""
    path = PurePosixPath(rest)
    if not _is_inside(rest):
        return False
    n_bytes = _TELLING_BYTES.get(path.name, _TELLING_BYTES.get(path.suffix.lower(), 0))
    end = min(n_bytes, n_bytes if info.get("size") is None else info["size"])
    try:
        content = store.cat_file(info["name"], start=0, end=end) if end else b""
    except (FileNotFoundError, PermissionError) as error:
        if not is_final(error):
            raise
        log.warning("%s: it cannot be read (%s)", rest, reason_of(error, info["name"]))
        content = b""
    try:
        (top / rest).parent.mkdir(parents=True, exist_ok=True)
        (top / rest).write_bytes(content)
    except (OSError, ValueError):
        return False
    return True


def _with_files(
    store: Any, slide: RemoteSlide, path: Path, before: str, there: Mapping[str, Info], *, is_zarr: bool
) -> RemoteSlide:
    """Say which of the files `there` make up a slide; `path` is its sketch, `before` what leads to it."""
    own: dict[str, Info] = {}
    if is_zarr:
        key = open_store(_child(slide.url, slide.name))[1]
        listed = _listed(store, key, whole=True)[0]
        own = {f"{slide.name}/{rest}": info for rest, info in listed.items()}
    else:
        for part in slide_parts(path):
            key = f"{before}{part.name}"
            names = [key] if key in there else [rest for rest in there if rest.startswith(f"{key}/")]
            own |= {rest.removeprefix(before): there[rest] for rest in names}
    beside = {
        name: there[f"{before}{name}"]
        for name in annotation_names(slide.name)
        if f"{before}{name}" in there and name not in own
    }
    few = len(own) <= MANY_FILES
    return replace(
        slide,
        files=tuple(_file(store, name, info, ask=few) for name, info in sorted(own.items())),
        annotations=tuple(_file(store, name, info, ask=True) for name, info in sorted(beside.items())),
    )


def _is_inside(name: str) -> bool:
    """Tell whether a file of such a name comes to lie below its folder, under this very name."""
    path = PurePosixPath(name)
    return (
        path.as_posix() == name and not path.is_absolute() and ".." not in path.parts and not Path(name).drive
    )


def _file(store: Any, name: str, info: Info, *, ask: bool) -> RemoteFile:
    key = info["name"]
    if not _is_inside(name):
        raise ValueError(f"no file here can be called {name!r}")
    if ask and (info.get("size") is None or version_of(info) is None):
        # Some say less in a list than when they are asked.
        info = {**info, **store.info(key)}
    return RemoteFile(name, key, info.get("size"), version_of(info))
