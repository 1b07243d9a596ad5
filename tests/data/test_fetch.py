"""Icon sets are read from npm archives and rasterised; no network is used here."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest

from glide_fast.data import fetch as fetch_module
from glide_fast.data.fetch import archive_name, fetch, fetch_archive, icon_svg, make_sprites, read_member
from glide_fast.data.sprites import load_sprites
from glide_fast.data.vocabulary import CONCEPTS, VENDORS, Concept
from glide_fast.errors import DownloadError, InvalidInputError

pytest.importorskip("resvg_py", reason="rasterising needs the data extra")

ICONS = {
    "prefix": "toy",
    "width": 20,
    "height": 20,
    "icons": {
        concept.icon: {"body": '<rect x="5" y="5" width="10" height="10" fill="#c02010"/>'}
        for concept in CONCEPTS
    },
}


def _write_archive(path, icons=ICONS):
    info = {"author": {"name": "Somebody"}, "license": {"spdx": "MIT"}}
    with tarfile.open(path, "w:gz") as tar:
        for name, content in (("icons.json", icons), ("info.json", info)):
            data = json.dumps(content).encode()
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def test_icons_are_drawn_where_their_box_says():
    sprites = make_sprites({"toy": ICONS}, CONCEPTS[:2], size=40)
    assert sprites.rgba.shape == (2, 1, 40, 40, 4) and sprites.nouns == ("dog", "cat")
    picture = sprites.rgba[0, 0]
    assert picture[20, 20].tolist() == [0xC0, 0x20, 0x10, 255]
    assert picture[..., 3].sum() == 255 * 20 * 20 and picture[5, 5, 3] == 0


def test_an_icon_may_have_its_own_box():
    icons = {"icons": {"a": {"body": "<g/>", "width": 7, "left": 2}}, "height": 9}
    assert 'viewBox="2 0 7 9"' in icon_svg(icons, "a")
    with pytest.raises(InvalidInputError, match="icon: got 'b'"):
        icon_svg(icons, "b")


def test_archives_that_are_there_need_no_npm(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch_module.shutil, "which", lambda name: None)
    for vendor in VENDORS:
        _write_archive(tmp_path / archive_name(vendor))
    path = fetch(tmp_path)
    sprites = load_sprites(path)
    note = json.loads((tmp_path / "sprites.json").read_text())
    assert sprites.sha256 == note["sha256"] and sprites.rgba.shape[:2] == (len(CONCEPTS), len(VENDORS))
    assert [source["author"] for source in note["sources"]] == [{"name": "Somebody"}] * len(VENDORS)
    assert np.any(sprites.rgba[..., 3])


def test_without_npm_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch_module.shutil, "which", lambda name: None)
    with pytest.raises(
        DownloadError, match=r"needs npm.*install Node\.js, or put iconify-json-noto-1\.2\.9\.tgz"
    ):
        fetch_archive(VENDORS[0], tmp_path)


def test_a_failing_npm_is_quoted_and_leaves_no_archive(tmp_path, monkeypatch):
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'E404 no such version' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setattr(fetch_module.shutil, "which", lambda name: str(npm))
    with pytest.raises(DownloadError, match="E404 no such version"):
        fetch_archive(VENDORS[0], tmp_path)
    assert not (tmp_path / archive_name(VENDORS[0])).exists()


@pytest.mark.parametrize("content", [b"", b"not an archive"])
def test_damaged_archives_are_refused(tmp_path, content):
    path = tmp_path / "a.tgz"
    path.write_bytes(content)
    with pytest.raises(DownloadError, match="delete it and fetch again"):
        read_member(path, "icons.json")


def test_the_vocabulary_is_consistent():
    assert len({c.noun for c in CONCEPTS}) == len({c.code for c in CONCEPTS}) == len(CONCEPTS)
    assert all(isinstance(c, Concept) and int(c.code, 16) > 0 for c in CONCEPTS)
