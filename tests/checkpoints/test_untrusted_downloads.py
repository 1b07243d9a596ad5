"""Downloads where the server lies, or something in the cache is not what it was."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import traceback
from pathlib import Path
from typing import Any

import pytest
import requests
import safetensors.torch
import torch

from glide_fast.checkpoints import default_cache_dir, fetch_file_cached, transfer
from glide_fast.checkpoints import record as records
from glide_fast.checkpoints.sidecars import sidecar
from glide_fast.errors import DownloadError, InvalidInputError

CONTENT = bytes(range(256)) * 40
SHA = hashlib.sha256(CONTENT).hexdigest()
STATE = {"a": torch.arange(3000.0), "b": torch.ones(5)}


def fetch(url: str, cache: Path, **options: Any) -> Path:
    return Path(
        fetch_file_cached(url, progress=False, cache_dir=cache, **{"backoff": 0.0, "retries": 1} | options)
    )


def checkpoint(form: str) -> bytes:
    if form == "safetensors":
        return safetensors.torch.save(STATE)
    stream = io.BytesIO()
    torch.save(STATE, stream, _use_new_zipfile_serialization=form == "zip")
    return stream.getvalue()


def left(cache: Path) -> set[str]:
    return {entry.name for entry in cache.iterdir()} - {"w.pt.glide_fast.lock"}


def flip_a_bit(file: Path) -> None:
    status = file.stat()
    content = bytearray(file.read_bytes())
    content[1000] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_pin_is_checked_against_the_file_not_its_record(site, tmp_path):
    url = site.put("/w.pt", CONTENT)
    file = fetch(url, tmp_path, sha256=SHA)
    flip_a_bit(file)
    assert fetch(url, tmp_path, sha256=SHA).read_bytes() == CONTENT
    assert len(site.requests) == 2
    flip_a_bit(file)
    site.close()
    with pytest.raises(DownloadError, match="connection failed"):
        fetch(url, tmp_path, sha256=SHA)


def test_a_forged_record_serves_nothing_under_a_pin(site, tmp_path):
    url = site.put("/w.pt", CONTENT)
    file = fetch(url, tmp_path)
    forged = CONTENT[::-1]
    file.write_bytes(forged)
    record = sidecar(file, "record")
    status = file.stat()
    fields = json.loads(record.read_text()) | {"length": len(forged), "modified_ns": status.st_mtime_ns}
    record.write_text(json.dumps(fields))
    assert fields["sha256"] == SHA
    assert fetch(url, tmp_path, sha256=SHA).read_bytes() == CONTENT
    # A file of another hash that was never what is wanted is kept, and named.
    file.write_bytes(forged)
    record.unlink()
    with pytest.raises(DownloadError, match=f"has sha256 .*, not the {SHA} asked for"):
        fetch(url, tmp_path, sha256=SHA)
    assert file.read_bytes() == forged


def test_a_pinned_file_is_served_whatever_its_record_says(site, tmp_path):
    url = site.put("/w.pt", CONTENT)
    record = sidecar(fetch(url, tmp_path), "record")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"sha256": "0" * 64}))
    assert fetch(url, tmp_path, sha256=SHA).read_bytes() == CONTENT
    assert json.loads(record.read_text())["sha256"] == SHA
    assert len(site.requests) == 1


NAMES = ["w", "w.json", "w.part", "w.lock", "w.part.json", "w.pt"]


def test_what_is_kept_beside_a_file_is_no_other_file(site, tmp_path):
    urls = {name: site.put("/" + name, name.encode() * 50) for name in NAMES}
    for _ in range(2):
        for name, url in urls.items():
            assert fetch(url, tmp_path).read_bytes() == name.encode() * 50
    assert len(site.requests) == len(NAMES)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", '"x"', "{}", '{"sha256": 3}', "[" * 100_000, '{"a": NaN}', "\ud800"),
        *("null record", "sha256", "length", "modified_ns", "date", "etag", "url", "extra"),
    ],
)
def test_a_malformed_record_does_not_block_the_file(site, tmp_path, text):
    url = site.put("/w.pt", CONTENT)
    record = sidecar(fetch(url, tmp_path), "record")
    fields = json.loads(record.read_text())
    if text in fields or text == "extra":
        text = json.dumps(fields | {text: [1]})
    elif text == "null record":
        text = json.dumps(dict.fromkeys(fields))
    record.write_bytes(text.encode("utf-8", "surrogatepass"))
    site.close()
    assert fetch(url, tmp_path).read_bytes() == CONTENT
    assert json.loads(record.read_text())["sha256"] == SHA


@pytest.mark.parametrize(
    "changes",
    [
        *(
            {"etag": '"v1"\n'},
            {"etag": "\u2100"},
            {"etag": 3},
            {"etag": ["x"]},
            {"last_modified": {}},
            {"length": True},
        ),
        *({"length": -1}, {"length": 5}, {"address": 3}, {"more": 1}),
    ],
)
def test_a_malformed_note_about_a_part_does_not_block_the_file(site, tmp_path, changes):
    url = site.put("/w.pt", CONTENT, cut=[4096, 0, 0, 0])
    with pytest.raises(DownloadError, match="4096 bytes are kept"):
        fetch(url, tmp_path)
    note = sidecar(tmp_path / "w.pt", "identity")
    note.write_text(json.dumps(json.loads(note.read_text()) | changes))
    site.pages["/w.pt"].cut.clear()
    assert fetch(url, tmp_path).read_bytes() == CONTENT


def test_the_part_of_another_file_survives_a_failure(site, tmp_path):
    url = site.put("/a/w.pt", CONTENT, cut=[4096, 0, 0, 0])
    with pytest.raises(DownloadError, match="4096 bytes are kept"):
        fetch(url, tmp_path)
    with pytest.raises(DownloadError, match="503"):
        fetch(site.put("/b/w.pt", CONTENT, statuses=[503] * 9), tmp_path)
    site.pages["/a/w.pt"].cut.clear()
    assert fetch(url, tmp_path).read_bytes() == CONTENT
    assert site.requests[-1]["range"] == "bytes=4096-"


@pytest.mark.parametrize("purpose", ["record", "identity"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_pipes_and_directories_in_place_of_notes_do_not_hang(site, tmp_path, purpose, make):
    url = site.put("/w.pt", CONTENT)
    make(sidecar(tmp_path / "w.pt", purpose))
    if (purpose, make) == ("identity", os.mkdir):
        with pytest.raises(DownloadError, match="could not be saved"):
            fetch(url, tmp_path)
        return
    if purpose == "identity":
        with pytest.raises(DownloadError, match="is a device, a pipe or a socket"):
            fetch(url, tmp_path)
        return
    assert fetch(url, tmp_path).read_bytes() == CONTENT
    assert fetch(url, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_the_final_name_is_taken_by_no_file(site, tmp_path, make):
    make(tmp_path / "w.pt")
    with pytest.raises(
        DownloadError, match=r"w\.pt, where the download would be kept, cannot be read \(it is a"
    ):
        fetch(site.put("/w.pt", CONTENT), tmp_path, force=False)
    with pytest.raises(
        DownloadError, match=r"w\.pt, where the download would be kept, cannot be read \(it is a"
    ):
        fetch(site.put("/w.pt", CONTENT), tmp_path, force=True)
    assert site.requests == []


def test_a_cached_file_that_cannot_be_read(site, tmp_path, monkeypatch):
    url = site.put("/w.pt", CONTENT)
    fetch(url, tmp_path)

    def refuse(_: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(records, "open_regular", refuse)
    with pytest.raises(DownloadError, match=r"w\.pt, where .*, cannot be read \(Permission denied\)"):
        fetch(url, tmp_path, sha256=SHA)
    assert (tmp_path / "w.pt").read_bytes() == CONTENT


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("length", ["none", "chunked", "wrong"])
def test_a_body_that_ends_early(site, tmp_path, form, length):
    """Without a length, or with one that is wrong too, a file's own structure shows that its end is missing."""
    whole = checkpoint(form)
    cuts = (20, 300, len(whole) // 2, len(whole) - 1)
    for cut in cuts:
        if length == "none":
            url = site.put("/w.pt", whole, announce=None, etag=None, cut=[cut] * 9)
        elif length == "chunked":
            url = site.put("/w.pt", whole, chunked=True, etag=None, cut=[cut] * 9)
        else:
            url = site.put("/w.pt", whole[:cut], etag=None)
        with pytest.raises(DownloadError, match=r"body ended|broke off|not whole"):
            fetch(url, tmp_path)
        assert left(tmp_path) == set()
    url = site.put("/w.pt", whole, announce=None, chunked=length == "chunked")
    assert fetch(url, tmp_path).read_bytes() == whole


def test_a_body_cut_once_without_a_length_is_fetched_again(site, tmp_path):
    whole = checkpoint("zip")
    assert fetch(site.put("/w.pt", whole, announce=None, cut=[9000]), tmp_path).read_bytes() == whole
    assert len(site.requests) == 2


JSON_TYPES = ["application/json", "application/problem+json; charset=utf-8", "text/json"]


@pytest.mark.parametrize("content_type", [*JSON_TYPES, "application/xml", "text/xml", "TEXT/HTML"])
def test_error_pages_by_content_type(site, tmp_path, content_type):
    url = site.put("/w.pt", CONTENT, content_type=content_type)
    with pytest.raises(
        DownloadError, match=r"gave a (JSON document|web page) \(.*\) in place of the file; nothing was saved"
    ):
        fetch(url, tmp_path)
    assert left(tmp_path) == set()


@pytest.mark.parametrize(
    "page",
    [
        *(
            b'{"error": "not found"}',
            b'\xef\xbb\xbf {\n "code": 404}',
            b"[]",
            b'["a"]',
            b"{}",
            b"<!DOCTYPE html>",
            b"{",
            b"[1, 2]",
        ),
        *(b"<Error><Code>AccessDenied</Code></Error>", b"[null]"),
        *(b"<!-- busy --><p>", b" <TITLE>no</TITLE>", b"<script>", b"<meta charset=x>", b"\n<p>sorry</p>"),
    ],
)
@pytest.mark.parametrize("length", [-1, None])
def test_error_pages_by_content(site, tmp_path, page, length):
    with pytest.raises(
        DownloadError, match=r"gave a (JSON document|web page) in place of the file; nothing was saved"
    ):
        fetch(site.put("/w.pt", page, announce=length), tmp_path)
    assert left(tmp_path) == set()
    (tmp_path / "w.pt").write_bytes(page)
    assert fetch(site.put("/w.pt", CONTENT), tmp_path).read_bytes() == CONTENT


def test_pages_that_are_what_was_asked_for(site, tmp_path):
    url = site.put("/vocab.json", b'{"a": 1}', content_type="application/json")
    assert fetch(url, tmp_path).read_bytes() == b'{"a": 1}'
    url = site.put("/index.html", b"<html></html>", content_type="text/html")
    assert fetch(url, tmp_path).read_bytes() == b"<html></html>"
    url = site.put("/a.js", b"var a = { b: 1 }", announce=None)
    assert fetch(url, tmp_path).read_bytes() == b"var a = { b: 1 }"
    # The length of this header is 123, an opening brace as a byte.
    safe = safetensors.torch.save({"a": torch.ones(1)}, {"pad": "x" * 40})
    while not safe.startswith(b"{"):
        safe = (123).to_bytes(8, "little") + safe[8 : 8 + int.from_bytes(safe[:8], "little")].rstrip()[
            :123
        ].ljust(123)
        safe += bytes(4)
    assert fetch(site.put("/w.safetensors", safe), tmp_path).read_bytes() == safe
    # The length of this header is 15392, a space and an opening angle bracket as bytes.
    safe = safetensors.torch.save({"a": torch.ones(1)}, {"pad": "x" * 15_000})
    safe = safe[8 : 8 + int.from_bytes(safe[:8], "little")].ljust(15_392) + safe[-4:]
    safe = (15_392).to_bytes(8, "little") + safe
    assert safe.startswith(b" <")
    assert fetch(site.put("/x.safetensors", safe), tmp_path).read_bytes() == safe


@pytest.mark.parametrize("port", ["closed", "open"])
def test_user_password_and_query_stay_out_of_errors_and_notes(site, tmp_path, caplog, port):
    site.put("/w.pt?sig=T0KEN", CONTENT, cut=[1000])
    url = site.address.replace("//", "//ann:s3cret@") + "/w.pt?sig=T0KEN"
    if port == "open":
        fetch(url, tmp_path)
        assert site.requests[0]["authorization"].startswith("Basic ")
        assert (
            json.loads(sidecar(tmp_path / "w.pt", "record").read_text())["url"] == site.address + "/w.pt?..."
        )
        with pytest.raises(DownloadError) as refused:
            fetch(url, tmp_path, sha256="0" * 64)
        texts = [str(refused.value)]
        site.put("/w.pt?sig=T0KEN", CONTENT, statuses=[404])
        with pytest.raises(DownloadError) as refused:
            fetch(url, tmp_path, force=True)
    else:
        site.close()
        texts = []
        with pytest.raises(DownloadError, match="connection failed") as refused:
            fetch(url, tmp_path)
    texts += ["".join(traceback.format_exception(refused.value)), caplog.text]
    texts += [entry.read_text("latin-1") for entry in tmp_path.iterdir()]
    for text in texts:
        assert "s3cret" not in text
        assert "T0KEN" not in text


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Length": "9" * 5000},
        {"Content-Length": "9" * 17},
        {"Content-Length": "5, 6"},
        {"Content-Length": "1, 2, x"},
        {"Location": "http://[::1/", "status": "302"},
        {"Location": "file:///etc/passwd", "status": "302"},
        {"Location": "http://" + "a" * 300 + "/", "status": "302"},
        {"Location": "http://127.0.0.1:99999/x", "status": "302"},
        {"Retry-After": "9" * 5000, "status": "410"},
        {"Content-Encoding": "x" * 5000},
    ],
)
def test_absurd_headers(site, tmp_path, headers):
    headers = dict(headers)
    status = headers.pop("status", None)
    url = site.put("/w.pt", CONTENT, headers=headers, announce=None)
    if status:
        site.pages["/w.pt"].status = int(status)
    with pytest.raises(DownloadError) as refused:
        fetch(url, tmp_path)
    assert len(str(refused.value)) < 600
    assert left(tmp_path) == set()


@pytest.mark.parametrize("range_", ["bytes " + "9" * 5000 + "-1/2", "bytes 0-1/" + "9" * 5000, "bytes x", ""])
def test_absurd_ranges(site, tmp_path, range_):
    url = site.put("/w.pt", CONTENT, headers={"Content-Range": range_})
    site.pages["/w.pt"].status = 206
    with pytest.raises(DownloadError, match="changed on the server"):
        fetch(url, tmp_path)


@pytest.mark.parametrize(
    "host", ["a..b", "..", "exa mple", "*", "a" * 300, "xn--a", "%00", "-", "\u2100.example"]
)
def test_broken_hosts(tmp_path, host, monkeypatch):
    monkeypatch.setattr(requests.Session, "trust_env", False, raising=False)
    with pytest.raises((DownloadError, InvalidInputError), match=r"w\.pt"):
        fetch(f"http://{host}/w.pt", tmp_path, retries=0)


def test_a_full_disk_keeps_nothing_that_could_not_be_continued(site, tmp_path, monkeypatch):
    url = site.put("/w.pt", CONTENT, etag=None)

    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(transfer.os, "fsync", fill)
        with pytest.raises(DownloadError, match=r"is full\. nothing is kept; free some space"):
            fetch(url, tmp_path)
    assert left(tmp_path) == set()
    assert fetch(url, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("cache_dir", ["a\0b", "\ud800", 5, b"x"])
def test_cache_directories_that_cannot_be(site, cache_dir):
    with pytest.raises(InvalidInputError, match="cache_dir: got"):
        fetch(site.put("/w.pt", CONTENT), cache_dir)


def test_cache_directory_of_nobody(site, tmp_path, monkeypatch):
    url = site.put("/w.pt", CONTENT)
    monkeypatch.setenv("GLIDE_FAST_CACHE", "~no-such-user/x")
    with pytest.raises(
        InvalidInputError, match="GLIDE_FAST_CACHE: got '~no-such-user/x'; accepted: a directory"
    ):
        fetch_file_cached(url, progress=False)
    assert default_cache_dir() == "~no-such-user/x"
    with pytest.raises(InvalidInputError, match="cache_dir: got '~no-such-user/x'"):
        fetch_file_cached(url, progress=False, cache_dir="~no-such-user/x")
    with pytest.raises(DownloadError, match="File name too long"):
        fetch(url, tmp_path / ("a" * 300))
    assert site.requests == []
