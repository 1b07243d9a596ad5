"""Which combinations training never sees.

A combination is held out when ``sha256(key) % 10 == 0``, so the split needs no file, is the same on every
machine and does not move when the vocabulary grows. Keys join their parts with ``|``:

- a lone solid: ``solid|shape|colour|background``
- two solids: ``relation|shape|colour|relation|shape|colour``. "A right of B" shows what "B left of A" shows,
  and "A below B" what "B on top of A" does, so both phrasings share the key of the second: neither is trained
  when one is held out.
- an emoji: ``emoji|noun|background``
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

_MIRROR = {"right of": "left of", "below": "on top of"}


@lru_cache(maxsize=65536)
def is_held_out(key: str) -> bool:
    """Whether the combination named by ``key`` belongs to the held-out split (one in ten does)."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest(), "big") % 10 == 0


def solid_key(shape: str, colour: str, background: str) -> str:
    """Key of a lone solid on a background."""
    return f"solid|{shape}|{colour}|{background}"


def emoji_key(noun: str, background: str) -> str:
    """Key of an emoji on a background."""
    return f"emoji|{noun}|{background}"


def relation_key(first: tuple[str, str], relation: str, second: tuple[str, str]) -> str:
    """Key of two related solids, each as (shape, colour); equal for both phrasings ("a above b" and "b below a")."""
    if relation in _MIRROR:
        first, relation, second = second, _MIRROR[relation], first
    return f"relation|{first[0]}|{first[1]}|{relation}|{second[0]}|{second[1]}"
