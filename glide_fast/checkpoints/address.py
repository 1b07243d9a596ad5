"""Addresses of downloads: checked, and shown without what may be secret in them."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from urllib.parse import unquote, urlsplit

from glide_fast.checkpoints.sidecars import LONGEST, is_sidecar
from glide_fast.errors import invalid

_ACCEPTED = "an http:// or https:// address that ends in a file name"
_NAME_LIMIT = 255 - LONGEST  # bytes; what file systems hold, less what a sidecar's name has more


@dataclasses.dataclass(frozen=True)
class Address:
    """The address that a file is downloaded from.

    url: the caller's, with user and password; only for the request. shown: for people and records, without user, password
    and query, any of which may be a secret. name: of the file. digest: SHA-256 of the address without user and password; it
    differs for two addresses that have the same `shown`.
    """

    url: str = dataclasses.field(repr=False)
    shown: str
    name: str
    digest: str


def parse_address(url: str) -> Address:
    """Raises InvalidInputError if `url` is not the address of a file, or its file name cannot be used in the cache."""
    if not isinstance(url, str):
        raise invalid("url", url, _ACCEPTED)
    shown = without_secrets(url)
    if any(ord(character) < 32 or ord(character) == 127 for character in url):
        raise invalid("url", shown, f"{_ACCEPTED}, without control characters")
    try:
        url.encode()
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        name = unquote(parts.path).rpartition("/")[2]
        size = len(name.encode())
    except ValueError:  # whose words may hold a part of the password
        raise invalid("url", shown, _ACCEPTED) from None
    if parts.scheme not in ("http", "https") or not host or name in ("", ".", "..") or "\\" in name:
        raise invalid("url", shown, _ACCEPTED)
    if not name.isprintable() or is_sidecar(name) or size > _NAME_LIMIT:
        accepted = f"a file name of at most {_NAME_LIMIT} printable bytes that does not end as the cache's own files do"
        raise invalid("url", shown, accepted)
    netloc = f"[{host}]" if ":" in host else host
    netloc += "" if port is None else f":{port}"
    bare = f"{parts.scheme}://{netloc}{parts.path}"
    return Address(
        url=url,
        shown=bare + ("?..." if parts.query else ""),
        name=name,
        digest=hashlib.sha256(f"{bare}?{parts.query}".encode()).hexdigest(),
    )


def without_secrets(text: str) -> str:
    """A text that quotes addresses, without their users, passwords and queries."""
    text = re.sub(r"//[^\s'\"<>]*@", "//", text)
    return re.sub(r"\?[^\s'\"<>)]+", "?...", text)
