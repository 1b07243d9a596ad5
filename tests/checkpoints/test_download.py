"""Downloads against a scripted server: what is checked, resumed, refused, and what is left on disk."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from glide_fast.checkpoints import (
    MODEL_PATHS,
    default_cache_dir,
    download,
    fetch_file_cached,
    load_checkpoint,
    transfer,
)
from glide_fast.checkpoints.address import parse_address
from glide_fast.checkpoints.sidecars import sidecar
from glide_fast.errors import CheckpointError, DownloadError, InvalidInputError

CONTENT = bytes(range(256)) * 400  # 102,400 bytes
OTHER = CONTENT[::-1]
SHA = hashlib.sha256(CONTENT).hexdigest()
ROOT = Path(__file__).parent.parent.parent


def fetch(url: str, cache: Path, **options: Any) -> Path:
    return Path(fetch_file_cached(url, progress=False, cache_dir=cache, **{"backoff": 0.0, **options}))


def leave_part(url: str, cache: Path, content: bytes, **identity: Any) -> Path:
    """What an interrupted download leaves."""
    address = parse_address(url)
    part = sidecar(cache / address.name, "part")
    part.write_bytes(content)
    note = {
        "address": address.digest,
        "length": len(CONTENT),
        "etag": '"v1"',
        "last_modified": None,
    } | identity
    sidecar(cache / address.name, "identity").write_text(json.dumps(note))
    return part


def names(cache: Path) -> set[str]:
    return {entry.name for entry in cache.iterdir()}


def test_downloads_once_then_works_offline(site, tmp_path):
    url = site.put("/w/base.pt", CONTENT)
    path = fetch(url, tmp_path)
    assert path == tmp_path / "base.pt"
    assert path.read_bytes() == CONTENT
    site.close()
    assert fetch(url, tmp_path) == path
    assert len(site.requests) == 1
    assert names(tmp_path) <= {"base.pt", "base.pt.glide_fast.json", "base.pt.glide_fast.lock"}


def test_records_what_the_download_had(site, tmp_path):
    url = site.put("/base.pt", CONTENT, etag='"abc"', last_modified="Tue, 21 Dec 2021 00:00:00 GMT")
    fetch(url, tmp_path)
    record = json.loads((tmp_path / "base.pt.glide_fast.json").read_text())
    assert record["sha256"] == SHA
    assert record["length"] == len(CONTENT)
    assert record["url"] == url
    assert record["etag"] == '"abc"'
    assert record["last_modified"] == "Tue, 21 Dec 2021 00:00:00 GMT"
    assert record["date"].endswith("+00:00")


def test_asks_for_the_bytes_as_they_are(site, tmp_path):
    fetch(site.put("/base.pt", CONTENT), tmp_path)
    assert site.requests[0]["accept-encoding"] == "identity"
    assert "range" not in site.requests[0]


def test_chunk_size_and_progress_do_not_change_the_file(site, tmp_path, capsys):
    path = fetch_file_cached(site.put("/base.pt", CONTENT), True, str(tmp_path), 777)
    assert Path(path).read_bytes() == CONTENT
    assert "base.pt" in capsys.readouterr().err


def test_no_progress_bar_when_not_wanted(site, tmp_path, capsys):
    fetch(site.put("/base.pt", CONTENT), tmp_path)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("status", [400, 403, 404, 410])
def test_error_status_is_refused_at_once(site, tmp_path, status):
    url = site.put("/base.pt", CONTENT, statuses=[status])
    with pytest.raises(DownloadError, match=rf"base\.pt could not be downloaded: HTTP status {status}"):
        fetch(url, tmp_path)
    assert len(site.requests) == 1
    assert "base.pt" not in names(tmp_path)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_error_status_is_tried_again(site, tmp_path, status):
    url = site.put("/base.pt", CONTENT, statuses=[status, status])
    assert fetch(url, tmp_path).read_bytes() == CONTENT
    assert len(site.requests) == 3


def test_lasting_server_trouble_ends(site, tmp_path):
    url = site.put("/base.pt", CONTENT, statuses=[503] * 10)
    with pytest.raises(DownloadError, match="HTTP status 503"):
        fetch(url, tmp_path, retries=2)
    assert len(site.requests) == 3


def test_waits_longer_each_time(site, tmp_path, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr(transfer.time, "sleep", waits.append)
    url = site.put("/base.pt", CONTENT, statuses=[503] * 3)
    fetch(url, tmp_path, backoff=0.5)
    assert waits == [0.5, 1.0, 2.0]


def test_no_server_there(site, tmp_path):
    site.close()
    with pytest.raises(DownloadError, match="the connection failed"):
        fetch(site.address + "/base.pt", tmp_path, retries=0)


def test_web_page_is_refused_by_content_type(site, tmp_path):
    url = site.put("/base.pt", b"log in first", content_type="text/html; charset=utf-8")
    with pytest.raises(DownloadError, match=r"gave a web page \(text/html\)"):
        fetch(url, tmp_path)
    assert "base.pt" not in names(tmp_path)
    assert "base.pt.glide_fast.part" not in names(tmp_path)


@pytest.mark.parametrize(
    "page", [b"\n <!DOCTYPE html><p>", b"<html>", b"\xef\xbb\xbf<?xml version='1.0'?><Error/>"]
)
@pytest.mark.parametrize("chunk_size", [1, 4096])
def test_web_page_is_refused_by_content(site, tmp_path, page, chunk_size):
    with pytest.raises(DownloadError, match="gave a web page"):
        fetch(site.put("/base.pt", page), tmp_path, chunk_size=chunk_size)
    assert names(tmp_path) <= {"base.pt.glide_fast.lock"}


def test_cached_error_page_is_replaced(site, tmp_path):
    (tmp_path / "base.pt").write_bytes(b"<html>a page that another program cached</html>")
    assert fetch(site.put("/base.pt", CONTENT), tmp_path).read_bytes() == CONTENT


def test_empty_file_is_refused(site, tmp_path):
    with pytest.raises(DownloadError, match="empty file"):
        fetch(site.put("/base.pt", b""), tmp_path)
    assert "base.pt" not in names(tmp_path)


def test_insisting_on_an_encoding_is_refused(site, tmp_path):
    with pytest.raises(DownloadError, match="insists on encoding"):
        fetch(site.put("/base.pt", CONTENT, encoding="gzip"), tmp_path)


def test_truncated_body_is_continued(site, tmp_path):
    url = site.put("/base.pt", CONTENT, cut=[40_960, 28_672])
    assert fetch(url, tmp_path).read_bytes() == CONTENT
    ranges = [request.get("range") for request in site.requests]
    assert ranges == [None, "bytes=40960-", "bytes=69632-"]
    assert site.requests[1]["if-range"] == '"v1"'


def test_progress_resets_the_count_of_failures(site, tmp_path):
    url = site.put("/base.pt", CONTENT, cut=[16_384] * 5)
    assert fetch(url, tmp_path, retries=1).read_bytes() == CONTENT
    assert len(site.requests) == 6


def test_truncated_for_good_keeps_the_part(site, tmp_path):
    url = site.put("/base.pt", CONTENT, cut=[49_152, *[0] * 9])
    with pytest.raises(
        DownloadError, match=r"49152 bytes are kept in .*base\.pt\.glide_fast\.part and will be continued"
    ):
        fetch(url, tmp_path, retries=1)
    assert (tmp_path / "base.pt.glide_fast.part").read_bytes() == CONTENT[:49_152]
    assert "base.pt" not in names(tmp_path)
    site.pages["/base.pt"].cut.clear()
    assert fetch(url, tmp_path).read_bytes() == CONTENT


def test_truncated_without_ranges_starts_again(site, tmp_path):
    url = site.put("/base.pt", CONTENT, ranges=False, cut=[40_960])
    assert fetch(url, tmp_path).read_bytes() == CONTENT
    assert site.requests[1]["range"] == "bytes=40960-"


def test_truncated_without_ranges_for_good_ends(site, tmp_path):
    url = site.put("/base.pt", CONTENT, ranges=False, cut=[40_960] * 20)
    with pytest.raises(DownloadError, match="could not be downloaded"):
        fetch(url, tmp_path, retries=2)
    assert len(site.requests) == 4  # the first gained bytes, three more did not


def test_resumes_what_an_earlier_process_left(site, tmp_path):
    url = site.put("/base.pt", CONTENT)
    leave_part(url, tmp_path, CONTENT[:33_333])
    assert fetch(url, tmp_path).read_bytes() == CONTENT
    assert site.requests[0]["range"] == "bytes=33333-"
    assert "base.pt.glide_fast.part" not in names(tmp_path)
    assert "base.pt.glide_fast.part.json" not in names(tmp_path)


def test_resumes_by_date_where_the_etag_is_weak(site, tmp_path):
    date = "Tue, 21 Dec 2021 00:00:00 GMT"
    url = site.put("/base.pt", CONTENT, etag='W/"v1"', last_modified=date)
    leave_part(url, tmp_path, CONTENT[:1000], etag='W/"v1"', last_modified=date)
    assert fetch(url, tmp_path).read_bytes() == CONTENT
    assert site.requests[0]["if-range"] == date


def test_without_validators_nothing_is_resumed(site, tmp_path):
    url = site.put("/base.pt", CONTENT, etag=None)
    leave_part(url, tmp_path, OTHER[:1000], etag=None)
    assert fetch(url, tmp_path).read_bytes() == CONTENT
    assert "range" not in site.requests[0]


@pytest.mark.parametrize("honours_if_range", [True, False])
def test_changed_file_is_not_glued_to_the_old_part(site, tmp_path, honours_if_range):
    url = site.put("/base.pt", CONTENT, etag='"v2"', honours_if_range=honours_if_range)
    leave_part(url, tmp_path, OTHER[:50_000])
    assert fetch(url, tmp_path).read_bytes() == CONTENT


def test_part_of_another_address_is_not_resumed(site, tmp_path):
    url = site.put("/base.pt", CONTENT)
    leave_part("http://elsewhere.example/base.pt", tmp_path, OTHER[:50_000])
    assert fetch(url, tmp_path).read_bytes() == CONTENT
    assert "range" not in site.requests[0]


def test_part_that_was_complete_is_taken(site, tmp_path):
    url = site.put("/base.pt", CONTENT)
    leave_part(url, tmp_path, CONTENT)
    assert fetch(url, tmp_path).read_bytes() == CONTENT
    assert len(site.requests) == 1


def test_part_that_is_too_long_is_thrown_away(site, tmp_path):
    url = site.put("/base.pt", CONTENT)
    leave_part(url, tmp_path, CONTENT + b"more")
    assert fetch(url, tmp_path).read_bytes() == CONTENT


def test_no_content_length(site, tmp_path):
    assert fetch(site.put("/base.pt", CONTENT, announce=None), tmp_path).read_bytes() == CONTENT


def test_sha256_agrees(site, tmp_path):
    assert fetch(site.put("/base.pt", CONTENT), tmp_path, sha256=SHA.upper()).read_bytes() == CONTENT


def test_sha256_of_a_download_differs(site, tmp_path):
    url = site.put("/base.pt", OTHER)
    with pytest.raises(DownloadError, match=f"not the {SHA} asked for; nothing was saved"):
        fetch(url, tmp_path, sha256=SHA)
    assert names(tmp_path) <= {"base.pt.glide_fast.lock"}


def test_sha256_of_a_cached_file_differs(site, tmp_path):
    url = site.put("/base.pt", CONTENT)
    fetch(url, tmp_path)
    with pytest.raises(DownloadError, match=r"force=True downloads it again"):
        fetch(url, tmp_path, sha256="0" * 64)
    assert (tmp_path / "base.pt").read_bytes() == CONTENT


def test_a_later_download_that_differs_is_refused_unless_forced(site, tmp_path):
    url = site.put("/base.pt", CONTENT)
    fetch(url, tmp_path).unlink()
    site.put("/base.pt", OTHER, etag='"v2"')
    with pytest.raises(
        DownloadError, match=rf"is not what it was: on .* it had sha256 {SHA} \(102400 bytes\)"
    ):
        fetch(url, tmp_path)
    assert "base.pt" not in names(tmp_path)
    assert fetch(url, tmp_path, force=True).read_bytes() == OTHER
    assert fetch(url, tmp_path).read_bytes() == OTHER


def test_force_downloads_again(site, tmp_path):
    url = site.put("/base.pt", CONTENT)
    fetch(url, tmp_path)
    fetch(url, tmp_path, force=True)
    assert len(site.requests) == 2


def test_damaged_cached_file_is_fetched_again(site, tmp_path):
    url = site.put("/base.pt", CONTENT)
    path = fetch(url, tmp_path)
    path.write_bytes(CONTENT[:-1])
    assert fetch(url, tmp_path).read_bytes() == CONTENT


def test_touched_cached_file_is_hashed_not_fetched(site, tmp_path):
    url = site.put("/base.pt", CONTENT)
    os.utime(fetch(url, tmp_path), (1, 1))
    fetch(url, tmp_path)
    assert len(site.requests) == 1


def test_file_put_there_by_hand_is_taken(tmp_path):
    (tmp_path / "base.pt").write_bytes(CONTENT)
    path = fetch("https://nowhere.invalid/base.pt", tmp_path)
    assert path.read_bytes() == CONTENT
    assert json.loads((tmp_path / "base.pt.glide_fast.json").read_text())["sha256"] == SHA


def test_same_name_from_another_address_is_refused(site, tmp_path):
    fetch(site.put("/a/base.pt", CONTENT), tmp_path)
    other = site.put("/b/base.pt", OTHER)
    with pytest.raises(DownloadError, match=r"was downloaded from .*/a/base\.pt, not from .*/b/base\.pt"):
        fetch(other, tmp_path)
    assert fetch(other, tmp_path, sha256=SHA).read_bytes() == CONTENT


def test_unreadable_record_is_no_obstacle(site, tmp_path):
    url = site.put("/base.pt", CONTENT)
    fetch(url, tmp_path)
    (tmp_path / "base.pt.glide_fast.json").write_text('{"sha256": 3')
    assert fetch(url, tmp_path).read_bytes() == CONTENT
    assert json.loads((tmp_path / "base.pt.glide_fast.json").read_text())["sha256"] == SHA


def test_full_disk_keeps_the_part_and_says_so(site, tmp_path, monkeypatch):
    url = site.put("/base.pt", CONTENT)
    real_open = Path.open

    def open_on_a_full_disk(self: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        file = real_open(self, mode, *args, **options)
        if self.name == "base.pt.glide_fast.part" and mode == "ab":
            room = 30_000

            class Full:
                def __enter__(self) -> Full:
                    return self

                def __exit__(self, *_: object) -> None:
                    file.close()

                def write(self, piece: bytes) -> int:
                    if file.tell() + len(piece) > room:
                        raise OSError(errno.ENOSPC, "No space left on device")
                    return file.write(piece)

            return Full()
        return file

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_on_a_full_disk)
        with pytest.raises(
            DownloadError, match=r"is full\. \d+ bytes are kept in .*base\.pt\.glide_fast\.part"
        ):
            fetch(url, tmp_path)
    assert "base.pt" not in names(tmp_path)
    kept = (tmp_path / "base.pt.glide_fast.part").stat().st_size
    assert 0 < kept <= 30_000
    assert fetch(url, tmp_path).read_bytes() == CONTENT
    assert site.requests[1]["range"] == f"bytes={kept}-"


def test_too_little_space_is_seen_before_anything_is_written(site, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DownloadError, match=r"needs 102400 more bytes, and the disk of .* has 1000 free"):
        fetch(site.put("/base.pt", CONTENT), tmp_path)
    assert "base.pt.glide_fast.part" not in names(tmp_path)


def test_unusable_cache_directory(site, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DownloadError, match=r"cache_dir .* cannot be written to"):
        fetch(site.put("/base.pt", CONTENT), tmp_path / "file" / "cache")


def test_keyboard_interrupt_leaves_a_part_that_resumes(site, tmp_path, monkeypatch):
    url = site.put("/base.pt", CONTENT)

    class Interrupting(transfer.tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            self.done = getattr(self, "done", 0) + (n or 0)
            if self.done >= 40_000:
                raise KeyboardInterrupt
            return None

    with monkeypatch.context() as patch:
        patch.setattr(transfer, "tqdm", Interrupting)
        with pytest.raises(KeyboardInterrupt):
            fetch(url, tmp_path)
    kept = (tmp_path / "base.pt.glide_fast.part").read_bytes()
    assert len(kept) >= 40_000
    assert CONTENT.startswith(kept)
    assert fetch(url, tmp_path).read_bytes() == CONTENT
    assert site.requests[1]["range"] == f"bytes={len(kept)}-"


FETCHING = """
import sys
from glide_fast.checkpoints import fetch_file_cached
print(fetch_file_cached(sys.argv[1], progress=False, cache_dir=sys.argv[2]), flush=True)
"""


def start_fetching(url: str, cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", FETCHING, url, str(cache)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_killed_in_the_middle_then_resumed(site, tmp_path):
    content = CONTENT * 8
    url = site.put("/base.pt", content, delay=0.02)
    process = start_fetching(url, tmp_path)
    part = tmp_path / "base.pt.glide_fast.part"
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size > 50_000):
        assert time.monotonic() < deadline, "the download did not start"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert "base.pt" not in names(tmp_path)
    kept = part.stat().st_size
    assert 0 < kept < len(content)
    site.pages["/base.pt"].delay = 0.0
    assert fetch(url, tmp_path).read_bytes() == content
    assert site.requests[-1]["range"] == f"bytes={kept}-"


def test_two_processes_at_once_download_once(site, tmp_path):
    url = site.put("/base.pt", CONTENT, delay=0.02)
    processes = [start_fetching(url, tmp_path) for _ in range(2)]
    for process in processes:
        printed, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        assert Path(printed.strip()).read_bytes() == CONTENT
    assert len(site.requests) == 1


@pytest.mark.parametrize(
    "url", ["ftp://host/base.pt", "base.pt", "https://host/", "https://host/a/..", "http:///x", 5]
)
def test_bad_address(tmp_path, url):
    with pytest.raises(InvalidInputError, match="url: got"):
        fetch(url, tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("chunk_size", value) for value in (0, -1, 1.5, True, "4096")],
        *[("sha256", value) for value in ("abc", "g" * 64, 7)],
        *[("retries", value) for value in (-1, 1.0)],
        *[("backoff", value) for value in (-1.0, float("inf"), float("nan"), "1")],
    ],
)
def test_bad_arguments(tmp_path, name, value):
    with pytest.raises(InvalidInputError, match=f"{name}: got"):
        fetch("https://nowhere.invalid/base.pt", tmp_path, **{name: value})
    assert names(tmp_path) == set()


def test_query_is_not_part_of_the_name(site, tmp_path):
    url = site.put("/a%20b.pt?token=1", CONTENT)
    assert fetch(url, tmp_path).name == "a b.pt"


def test_default_cache_dir_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("GLIDE_FAST_CACHE", str(tmp_path / "mine"))
    assert default_cache_dir() == str(tmp_path / "mine")
    monkeypatch.delenv("GLIDE_FAST_CACHE")
    assert Path(default_cache_dir()).name == "glide_fast"


@pytest.fixture
def released(site, tmp_path, monkeypatch):
    """A site that serves a small checkpoint as every released model."""
    file = tmp_path / "made.pt"
    torch.save({"weight": torch.arange(6.0).reshape(2, 3), "half": torch.ones(2, dtype=torch.float16)}, file)
    for name, address in MODEL_PATHS.items():
        path = "/" + address.rpartition("/")[2]
        monkeypatch.setitem(download.MODEL_PATHS, name, site.put(path, file.read_bytes()))
    monkeypatch.setenv("GLIDE_FAST_CACHE", str(tmp_path / "cache"))
    return site


def test_released_names_and_addresses():
    root = "https://openaipublic.blob.core.windows.net/diffusion/dec-2021/"
    assert {
        "base": root + "base.pt",
        "upsample": root + "upsample.pt",
        "base-inpaint": root + "base_inpaint.pt",
        "upsample-inpaint": root + "upsample_inpaint.pt",
        "clip/image-enc": root + "clip_image_enc.pt",
        "clip/text-enc": root + "clip_text_enc.pt",
    } == MODEL_PATHS


@pytest.mark.parametrize("name", list(MODEL_PATHS))
def test_load_checkpoint(released, tmp_path, name):
    state = load_checkpoint(name, torch.device("cpu"), progress=False)
    assert torch.equal(state["weight"], torch.arange(6.0).reshape(2, 3))
    assert state["half"].dtype == torch.float16
    released.close()
    again = load_checkpoint(name, "cpu", progress=False)
    assert torch.equal(again["weight"], state["weight"])


def test_load_checkpoint_takes_the_official_positions(released, tmp_path):
    state = load_checkpoint("base", torch.device("cpu"), False, str(tmp_path / "elsewhere"), 512)
    assert set(state) == {"weight", "half"}
    assert (tmp_path / "elsewhere" / "base.pt").is_file()


def test_load_checkpoint_unknown_name(released):
    with pytest.raises(
        InvalidInputError, match=r"checkpoint_name: got 'bsae'; accepted: one of 'base', 'upsample'"
    ):
        load_checkpoint("bsae", "cpu")
    assert released.requests == []


@pytest.mark.parametrize("device", ["gpu", "cuda:999", 3.5])
def test_load_checkpoint_bad_device_is_seen_before_the_download(released, device):
    with pytest.raises(InvalidInputError, match="device: got"):
        load_checkpoint("base", device)
    assert released.requests == []


def test_load_checkpoint_of_something_else(released, tmp_path):
    released.put("/base.pt", b"not a checkpoint at all")
    with pytest.raises(CheckpointError, match="It is the cached 'base'; force=True downloads it again"):
        load_checkpoint("base", "cpu", progress=False)
    released.put("/base.pt", (tmp_path / "made.pt").read_bytes(), etag='"v2"')
    assert set(load_checkpoint("base", "cpu", progress=False, force=True)) == {"weight", "half"}
