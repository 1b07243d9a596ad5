"""Bounds that the API and the command line share."""

from __future__ import annotations

MOST_IMAGES = 100_000
"""Of a prompt in one call or command, which holds something of each from its beginning to its end."""
