"""Bounds that the API and the command line share."""

from __future__ import annotations

from glide_fast.errors import InvalidInputError

MOST_IMAGES = 100_000
"""The most pictures of one call or command, of all its prompts together: each takes some memory for the whole run."""

MOST_PROMPT_BYTES = 1_000 * MOST_IMAGES
"""The largest size of a file of prompts, in bytes."""


def require_images(argument: str, count: int, entries: str, each_argument: str, each: int) -> None:
    """Raise InvalidInputError if ``count`` entries with ``each`` pictures for each are more than :data:`MOST_IMAGES`.

    Args:
        argument: the argument that holds the entries; the message begins with it.
        entries: what the entries are, in the plural, such as "prompts".
        each_argument: the argument that holds ``each``; the error lists it.
    """
    if count * each <= MOST_IMAGES:
        return
    error = InvalidInputError(
        f"{argument}: got {count:,} {entries}, which makes {count * each:,} pictures ({each_argument}: {each:,} of each); "
        f"accepted: at most {MOST_IMAGES:,} pictures at once"
    )
    error.listed = (each_argument,)
    raise error
