"""Addresses of downloads: what is refused, and what is shown of the rest."""

from __future__ import annotations

import pytest

from glide_fast.checkpoints.address import parse_address, without_secrets
from glide_fast.errors import InvalidInputError


def test_parts_of_an_address():
    address = parse_address("https://ann:s3cret@host.example:8080/a%20dir/b%20c.pt?sig=T0KEN&x=1")
    assert address.name == "b c.pt"
    assert address.shown == "https://host.example:8080/a%20dir/b%20c.pt?..."
    assert "s3cret" not in repr(address)
    assert "T0KEN" not in repr(address)
    assert address.url.startswith("https://ann:s3cret@")
    assert parse_address("http://[::1]:80/x.pt").shown == "http://[::1]:80/x.pt"


def test_addresses_are_told_apart_by_all_but_the_user():
    digests = [
        parse_address(url).digest
        for url in (
            "http://host/x?id=1",
            "http://host/x?id=2",
            "http://host/x",
            "http://other/x",
            "https://host/x",
            "http://ann:one@host/x",
            "http://bob:two@host/x",
        )
    ]
    assert len(set(digests)) == 5
    assert digests[2] == digests[5] == digests[6]


@pytest.mark.parametrize(
    "url",
    [
        *(
            "ftp://host/base.pt",
            "base.pt",
            "https://host/",
            "https://host/a/..",
            "http:///x",
            5,
            None,
            b"http://h/x",
        ),
        *(
            "http://host/a%00b.pt",
            "http://host/%0a.pt",
            "http://ho\nst/x.pt",
            "http://host/x\0.pt",
            "http://host/\ud800.pt",
            "http://ho\ud800st/x.pt",
            "http://host/x.pt?\ud800",
            "http://u\ud800@host/x.pt",
        ),
        *(
            "http://[::1/base.pt",
            "http://[zz]/base.pt",
            "http://host:99999/x.pt",
            "http://host:port/x.pt",
            "http://:80/x.pt",
        ),
        *(
            "http://user:word@/x.pt",
            "http://host/a\\b.pt",
            "http://host/" + "a" * 300 + ".pt",
            "http://host/" + "é" * 130,
        ),
        *("http://h/x.pt.glide_fast.json", "http://h/x.GLIDE_FAST.part", "http://h/x.glide_fast.part.json"),
        *("http://h/x.glide_fast.lock", "http://h/%2e%2e"),
    ],
)
def test_what_is_no_address_of_a_file(url):
    with pytest.raises(InvalidInputError, match="url: got"):
        parse_address(url)


@pytest.mark.parametrize(
    "url",
    ["http://ann:s3cret@[::1/x.pt?key=T0KEN", "ftp://ann:s3@cret@h/x?T0KEN", "http://u:s3cret/@h/?T0KEN"],
)
def test_a_refusal_shows_no_secret(url):
    with pytest.raises(InvalidInputError) as refused:
        parse_address(url)
    assert "cret" not in str(refused.value)
    assert "T0KEN" not in str(refused.value)
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


def test_what_libraries_say_loses_its_secrets():
    said = "Max retries exceeded with url: /x.pt?sig=T0KEN (at 'http://ann:s3cret@host/x.pt?sig=T0KEN')"
    assert without_secrets(said) == "Max retries exceeded with url: /x.pt?... (at 'http://host/x.pt?...')"
