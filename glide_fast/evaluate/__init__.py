"""Judging generated pictures: what they show, against what their captions asked for."""

from __future__ import annotations
