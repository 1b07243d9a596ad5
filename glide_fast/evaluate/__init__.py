"""Judging generated pictures: whether they show the objects, colours and relations that their captions name."""

from __future__ import annotations
