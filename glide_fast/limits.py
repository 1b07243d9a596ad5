"""Bounds that the API and the command line share."""

from __future__ import annotations

from glide_fast.errors import InvalidInputError

MOST_IMAGES = 100_000
"""Pictures of one call or command, of all its prompts together: it holds something of each from its beginning to its end."""

MOST_PROMPT_BYTES = 1_000 * MOST_IMAGES
"""Of a file of prompts."""


def require_images(argument: str, count: int, entries: str, each_argument: str, each: int) -> None:
    """InvalidInputError where ``each`` results of so many ``entries`` (prompts, pictures) are more than :data:`MOST_IMAGES`.

    It begins with ``argument``, which the entries were given as, and lists ``each_argument``, which ``each`` was given as.
    """
    if count * each <= MOST_IMAGES:
        return
    error = InvalidInputError(
        f"{argument}: got {count:,} {entries}, which makes {count * each:,} pictures ({each_argument}: {each:,} of each); "
        f"accepted: at most {MOST_IMAGES:,} pictures at once"
    )
    error.listed = (each_argument,)
    raise error
