"""Downloading a file once: resumable, checked, cached. Nothing is fetched at import or unless a function is called."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import ssl
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

from .files import cache_directory
from .packages import import_package

TEXT8_URL = "http://mattmahoney.net/dc/text8.zip"
TEXT8_SIZE = 100_000_000  # bytes, unpacked
TEXT8_MD5 = "3bea1919949baf155f99411df5fada7e"  # of the unpacked file; widely published

_CHUNK = 1 << 18
_ATTEMPTS = 4
_RETRY_SECONDS = 0.5  # before the second attempt; doubled before each later one
_NETWORK_ERRORS = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)


class DownloadError(RuntimeError):
    """A download failed, or what came is not what was expected. The message names the URL."""


class _Retry(Exception):
    """This attempt failed in a way that another one may not."""


def fetch(
    url: str,
    destination: str | os.PathLike[str],
    *,
    sha256: str | None = None,
    md5: str | None = None,
    size: int | None = None,
    progress: bool = True,
    timeout: float = 30,
) -> Path:
    """Download `url` to the file `destination`, going on where an earlier, interrupted download stopped.

    The bytes go to `destination` + ".part", which gets its real name once it is complete and checked. An existing
    .part is continued when the server agrees that it is the same file (Range and If-Range), else started over.
    Dropped connections are tried again a few times.

    Args:
        url: http, https or file URL.
        destination: the file to write, replaced when it exists; its directory is made when missing.
        sha256: expected hex digest, or None.
        md5: the same.
        size: expected number of bytes, or None for what the server says.
        progress: show a progress bar on stderr.
        timeout: seconds without a byte after which a connection counts as dropped.

    Returns:
        The path of the complete file.

    Raises:
        DownloadError: the network or the server fails (the .part is kept), or size or checksum are wrong (the .part is
            removed).
        OSError: the file cannot be written.
    """
    destination = Path(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    part = destination.with_name(destination.name + ".part")
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            expected = _fetch_once(url, part, size, progress, timeout)
            break
        except _Retry as error:
            if attempt == _ATTEMPTS:
                kept = f"; {part} keeps what has come, calling again goes on from there" if part.exists() else ""
                raise DownloadError(f"{url}: {error} ({_ATTEMPTS} attempts){kept}") from error
            time.sleep(_RETRY_SECONDS * 2 ** (attempt - 1))
    try:
        check_file(part, size=size if size is not None else expected, sha256=sha256, md5=md5)
    except ValueError as error:
        part.unlink()
        raise DownloadError(f"{url}: {error}; the file was removed") from error
    finally:
        _state_path(part).unlink(missing_ok=True)
    part.replace(destination)
    return destination


def check_file(
    path: str | os.PathLike[str], *, size: int | None = None, sha256: str | None = None, md5: str | None = None
) -> None:
    """Compare a file's size (bytes) and hex digests with what is expected; None is not compared.

    Raises:
        ValueError: one differs; the message gives both.
    """
    path = Path(path)
    got_size = path.stat().st_size
    if size is not None and got_size != size:
        raise ValueError(f"expected {size} bytes, got {got_size}")
    for name, expected in (("sha256", sha256), ("md5", md5)):
        if expected is not None:
            digest = hashlib.new(name, usedforsecurity=False)
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
            if digest.hexdigest() != expected.lower():
                raise ValueError(f"expected {name} {expected.lower()}, got {digest.hexdigest()}")


def _state_path(part: Path) -> Path:
    """Return where the validator of a .part is kept: the name by which the server knows this version of the file."""
    return part.with_name(part.name + ".json")


def _resume_headers(url: str, part: Path) -> dict[str, str]:
    """Return the request headers that ask for the rest of a .part; none where there is nothing to go on from."""
    try:
        state = json.loads(_state_path(part).read_text())
        if state["url"] == url and state["validator"] and part.stat().st_size > 0:
            return {"Range": f"bytes={part.stat().st_size}-", "If-Range": state["validator"]}
    except (OSError, ValueError, KeyError, TypeError):
        pass  # without a readable validator nothing says that the .part is of the same file: start over
    return {}


def _fetch_once(url: str, part: Path, size: int | None, progress: bool, timeout: float) -> int | None:
    """Make one attempt at completing `part`. Returns the number of bytes the server says the file has, if it does."""
    headers = _resume_headers(url, part)
    try:
        request = urllib.request.Request(url, headers={"Accept-Encoding": "identity", **headers})
    except ValueError as error:
        raise DownloadError(f"{url}: {error}") from error
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            start, total = _where(response, part, bool(headers))
            if start == 0:
                # A weak ETag does not promise equal bytes, so it cannot be resumed with (RFC 9110, 13.1.5).
                etag = response.headers.get("ETag") or ""
                validator = response.headers.get("Last-Modified") if not etag or etag.startswith("W/") else etag
                _state_path(part).write_text(json.dumps({"url": url, "validator": validator}))
            total = total if total is not None else size
            with part.open("r+b" if start else "wb") as file:
                file.seek(start)
                _copy(response, file, start, total, part.name, progress)
            if total is not None and part.stat().st_size < total:
                raise _Retry(f"the connection ended after {part.stat().st_size} of {total} bytes")
            return total
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # the .part is longer than the file has become
            _state_path(part).unlink(missing_ok=True)
            raise _Retry("the server refuses to go on from the .part") from error
        if error.code >= 500 or error.code in (408, 429):
            raise _Retry(f"HTTP {error.code} {error.reason}") from error
        raise DownloadError(f"{url}: HTTP {error.code} {error.reason}") from error
    except _NETWORK_ERRORS as error:
        raise _Retry(f"{getattr(error, 'reason', None) or error or type(error).__name__}") from error


def _where(response: http.client.HTTPResponse, part: Path, resuming: bool) -> tuple[int, int | None]:
    """Return the offset at which the answer's bytes belong, and the size of the whole file if the server says it."""
    length = response.headers.get("Content-Length")
    if getattr(response, "status", None) != 206:  # the whole file; None: not HTTP
        return 0, int(length) if length and length.isdigit() else None
    have = part.stat().st_size
    span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    if not resuming or span.partition("-")[0] != str(have) or not (total.isdigit() or total == "*"):
        _state_path(part).unlink(missing_ok=True)  # the next attempt asks for the whole file
        raise _Retry(f"the server answered a request for bytes {have}- with {response.headers.get('Content-Range')!r}")
    return have, int(total) if total.isdigit() else None


def _copy(response: BinaryIO, file: BinaryIO, start: int, total: int | None, name: str, progress: bool) -> None:
    tqdm = import_package("tqdm", "tqdm", "for the progress bars").tqdm
    with tqdm(
        total=total,
        initial=start,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        desc=name.removesuffix(".part"),
        disable=None if progress else True,  # None: only on a terminal
    ) as bar:
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            bar.update(len(chunk))


def text8_path(
    cache_dir: str | os.PathLike[str] | None = None,
    progress: bool = True,
    *,
    url: str = TEXT8_URL,
    size: int = TEXT8_SIZE,
    md5: str = TEXT8_MD5,
) -> Path:
    """Return the file text8 (100 MB of cleaned Wikipedia text), downloading and unpacking it the first time.

    Args:
        cache_dir: the cache; None for the default (see `files.cache_directory`).
        progress: show a progress bar on stderr.
        url: the zip file with the member `text8`.
        size: expected number of bytes of the unpacked file.
        md5: expected MD5 of the unpacked file, as hex.

    Raises:
        DownloadError: the download failed, or what came is not text8.
        OSError: the cache cannot be written.
    """
    directory = cache_directory(cache_dir, "downloads")
    target = directory / "text8"
    if target.is_file() and target.stat().st_size == size:  # it got this name only after the checks below
        return target
    archive = fetch(url, directory / "text8.zip", progress=progress)
    temporary = target.with_name(f".text8.{os.getpid()}.tmp")
    try:
        with zipfile.ZipFile(archive) as bundle, bundle.open("text8") as source, temporary.open("wb") as file:
            left = size + 1  # one byte more than expected is enough to know; a zip bomb gets no further
            while left > 0 and (chunk := source.read(min(_CHUNK, left))):
                file.write(chunk)
                left -= len(chunk)
        check_file(temporary, size=size, md5=md5)
        temporary.replace(target)
    except (zipfile.BadZipFile, KeyError, ValueError, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
        # Remove it, or the next call would look at the same bytes again.
        raise DownloadError(f"{url}: not the text8 expected: {error}; the file was removed") from error
    finally:
        temporary.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            archive.unlink()
    return target
