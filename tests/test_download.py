"""Downloads against servers on this machine: resuming, dropped connections, wrong files, the text8 cache."""

import hashlib
import io
import sys
import threading
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from w2v_ext import download
from w2v_ext.download import DownloadError, check_file, fetch, text8_path
from w2v_ext.files import cache_directory

DATA = bytes(range(256)) * 4000  # 1,024,000 bytes


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(download, "_RETRY_SECONDS", 0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@contextmanager
def serving(data=DATA, *, ranges=True, etag='"v1"', drop_after=(), status=(), content_range=None, length=True):
    """Serve `data` at every path. `drop_after`: bytes after which the first answers end; `status`: their codes."""
    requests, drops, codes = [], list(drop_after), list(status)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(dict(self.headers))
            if codes:
                self.send_error(codes.pop(0))
                return
            asked = self.headers.get("Range")
            start = 0
            if ranges and asked and self.headers.get("If-Range") == etag:
                start = int(asked.removeprefix("bytes=").rstrip("-"))
                if start >= len(data):
                    self.send_error(416)
                    return
                self.send_response(206)
                self.send_header("Content-Range", content_range or f"bytes {start}-{len(data) - 1}/{len(data)}")
            else:
                self.send_response(200)
            body = data[start:]
            if length:
                self.send_header("Content-Length", str(len(body)))
            if etag:
                self.send_header("ETag", etag)
            self.end_headers()
            if drops and drops[0] < len(body):
                body = body[: drops.pop(0)]
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/file.bin", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def get(url, path, **kwargs):
    return fetch(url, path, progress=False, timeout=5, **kwargs)


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize("length", [True, False])
def test_fetch(tmp_path, length):
    with serving(length=length) as (url, requests):
        path = get(url, tmp_path / "new" / "f", size=len(DATA), sha256=hashlib.sha256(DATA).hexdigest().upper())
    assert path == tmp_path / "new" / "f"
    assert path.read_bytes() == DATA
    assert names(path.parent) == ["f"]
    assert len(requests) == 1 and "Range" not in requests[0]


def test_dropped_connection_goes_on_where_it_stopped(tmp_path):
    with serving(drop_after=(300_000, 200_000)) as (url, requests):
        assert get(url, tmp_path / "f").read_bytes() == DATA
    assert [request.get("Range") for request in requests] == [None, "bytes=300000-", "bytes=500000-"]
    assert {request.get("If-Range") for request in requests[1:]} == {'"v1"'}
    assert names(tmp_path) == ["f"]


@pytest.mark.parametrize("options", [{"ranges": False}, {"etag": None}, {"etag": 'W/"v1"'}])
def test_starts_over_where_the_server_cannot_resume(tmp_path, options):
    with serving(drop_after=(300_000,), **options) as (url, requests):
        assert get(url, tmp_path / "f").read_bytes() == DATA
    assert len(requests) == 2
    assert ("Range" in requests[1]) == (options == {"ranges": False})  # no strong validator: not even asked for


def test_resumes_a_part_of_an_earlier_call(tmp_path):
    with serving(drop_after=(100_000, 100_000, 100_000, 100_000)) as (url, requests):
        with pytest.raises(DownloadError, match="the connection ended after 400000 of 1024000 bytes") as error:
            get(url, tmp_path / "f")
        assert url in str(error.value) and f"{tmp_path / 'f.part'} keeps what has come" in str(error.value)
        assert names(tmp_path) == ["f.part", "f.part.json"]
        assert (tmp_path / "f.part").read_bytes() == DATA[:400_000]
        assert get(url, tmp_path / "f").read_bytes() == DATA
    assert requests[4]["Range"] == "bytes=400000-"


def test_a_file_that_changed_meanwhile_is_started_over(tmp_path):
    (tmp_path / "f.part").write_bytes(b"x" * 1000)
    with serving(etag='"v2"') as (url, requests):
        (tmp_path / "f.part.json").write_text(f'{{"url": "{url}", "validator": "\\"v1\\""}}')
        assert get(url, tmp_path / "f").read_bytes() == DATA
    assert requests[0]["If-Range"] == '"v1"'


@pytest.mark.parametrize("state", [None, "", "[]", '{"url": "http://elsewhere/", "validator": "v"}'])
def test_a_part_of_unknown_origin_is_started_over(tmp_path, state):
    (tmp_path / "f.part").write_bytes(b"x" * 1000)
    if state is not None:
        (tmp_path / "f.part.json").write_text(state)
    with serving() as (url, requests):
        assert get(url, tmp_path / "f").read_bytes() == DATA
    assert "Range" not in requests[0]


def test_wrong_content_range_is_not_appended(tmp_path):
    with serving(drop_after=(300_000,), content_range="bytes 7-9/10") as (url, requests):
        assert get(url, tmp_path / "f").read_bytes() == DATA
    assert [request.get("Range") for request in requests] == [None, "bytes=300000-", None]


def test_part_longer_than_the_file(tmp_path):
    (tmp_path / "f.part").write_bytes(b"x" * (len(DATA) + 5))
    with serving() as (url, requests):
        (tmp_path / "f.part.json").write_text(f'{{"url": "{url}", "validator": "\\"v1\\""}}')
        assert get(url, tmp_path / "f").read_bytes() == DATA
    assert len(requests) == 2


@pytest.mark.parametrize("name", ["sha256", "md5"])
def test_wrong_checksum(tmp_path, name):
    got = hashlib.new(name, DATA).hexdigest()
    with serving() as (url, requests):
        with pytest.raises(
            DownloadError, match=f"expected {name} {'0' * len(got)}, got {got}; the file was removed"
        ) as e:
            get(url, tmp_path / "f", **{name: "0" * len(got)})
    assert url in str(e.value)
    assert names(tmp_path) == []
    assert len(requests) == 1


def test_wrong_size(tmp_path):
    (tmp_path / "f").write_bytes(b"earlier")
    with serving() as (url, _):
        with pytest.raises(DownloadError, match="expected 5 bytes, got 1024000"):
            get(url, tmp_path / "f", size=5)
    assert (tmp_path / "f").read_bytes() == b"earlier"
    assert names(tmp_path) == ["f"]


def test_404_is_not_tried_again(tmp_path):
    with serving(status=(404,)) as (url, requests):
        with pytest.raises(DownloadError, match="HTTP 404 Not Found") as error:
            get(url, tmp_path / "f")
    assert url in str(error.value) and len(requests) == 1 and names(tmp_path) == []


def test_server_errors_are_tried_again(tmp_path):
    with serving(status=(503, 500, 429)) as (url, requests):
        assert get(url, tmp_path / "f").read_bytes() == DATA
    assert len(requests) == 4
    with serving(status=(503,) * 9) as (url, requests):
        with pytest.raises(DownloadError, match=r"HTTP 503 Service Unavailable \(4 attempts\)$"):
            get(url, tmp_path / "g")
    assert len(requests) == 4


def test_nobody_listening(tmp_path):
    with serving() as (url, _):
        pass
    with pytest.raises(DownloadError, match="(?i)refused") as error:
        get(url, tmp_path / "f")
    assert url in str(error.value)


def test_not_a_url(tmp_path):
    with pytest.raises(DownloadError, match="no-url: unknown url type"):
        get("no-url", tmp_path / "f")


def test_progress_bar(tmp_path, capsys, monkeypatch):
    with serving() as (url, _):
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        fetch(url, tmp_path / "name", progress=True)
        assert "name: 100%" in capsys.readouterr().err
        get(url, tmp_path / "quiet")
    assert capsys.readouterr().err == ""


def test_check_file(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    check_file(path)
    check_file(path, size=3, md5="900150983cd24fb0d6963f7d28e17f72")
    with pytest.raises(ValueError, match="expected 4 bytes, got 3"):
        check_file(path, size=4)


# ---- text8 -------------------------------------------------------------------------------------------------------

TEXT = b"anarchism originated as a term of abuse " * 5000
EXPECTED = {"size": len(TEXT), "md5": hashlib.md5(TEXT).hexdigest()}


def zipped(member="text8", text=TEXT):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr(member, text)
    return buffer.getvalue()


def test_text8_is_fetched_once(tmp_path, monkeypatch):
    monkeypatch.setenv("W2V_EXT_CACHE", str(tmp_path / "cache"))
    with serving(zipped()) as (url, requests):
        for _ in range(2):
            path = text8_path(progress=False, url=url, **EXPECTED)
            assert path == tmp_path / "cache" / "downloads" / "text8"
            assert path.read_bytes() == TEXT
    assert len(requests) == 1
    assert names(tmp_path / "cache" / "downloads") == ["text8"]


def test_text8_cache_of_the_wrong_size_is_replaced(tmp_path):
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "text8").write_bytes(TEXT[:-1])
    with serving(zipped()) as (url, _):
        assert text8_path(tmp_path, progress=False, url=url, **EXPECTED).read_bytes() == TEXT


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (zipped(text=TEXT[:-1] + b"x"), "expected md5 .*, got "),
        (zipped(text=TEXT[:-1]), f"expected {len(TEXT)} bytes, got {len(TEXT) - 1}"),
        (zipped(text=TEXT * 50), f"expected {len(TEXT)} bytes, got {len(TEXT) + 1}"),  # stops unpacking right there
        (zipped(member="text9"), "There is no item named 'text8'"),
        (b"<html>moved</html>", "File is not a zip file"),
        (zipped()[:60] + b"\xff" * 40 + zipped()[100:], ""),
    ],
)
def test_text8_wrong_file(tmp_path, body, message):
    with serving(body) as (url, _):
        with pytest.raises(
            DownloadError, match=f"not the text8 expected: .*{message}.*; the file was removed"
        ) as error:
            text8_path(tmp_path, progress=False, url=url, **EXPECTED)
    assert url in str(error.value)
    assert names(tmp_path / "downloads") == []


def test_text8_record():
    assert (download.TEXT8_URL, download.TEXT8_SIZE) == ("http://mattmahoney.net/dc/text8.zip", 100_000_000)
    assert download.TEXT8_MD5 == "3bea1919949baf155f99411df5fada7e"


def test_cache_directory(monkeypatch, tmp_path):
    monkeypatch.delenv("W2V_EXT_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory(None, "downloads") == tmp_path / ".cache" / "w2v_ext" / "downloads"
    monkeypatch.setenv("W2V_EXT_CACHE", str(tmp_path / "mine"))
    assert cache_directory(None, "corpora") == tmp_path / "mine" / "corpora"
    assert cache_directory(tmp_path / "own", "corpora") == tmp_path / "own" / "corpora"
