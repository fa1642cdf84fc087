"""How long desks lived: three in a row that ended soon are not trusted to act, until one has lived long."""

SETTLED_SECONDS = 60.0
"""A desk that has lived this long did not end because of how it began."""
TRUSTED_SECONDS = 600.0
"""One that has lived this long is trusted, whatever was before it."""
MOST_SHORT_LIVES = 3


def short_lives(before: int, lived_seconds: float) -> int:
    """How many desks in a row ended soon, after one more that lived so long; `before` is how many there were.

    Once there are too many, only a desk that has lived for ten minutes begins a new count.
    """
    if lived_seconds < SETTLED_SECONDS:
        return before + 1
    return before if before >= MOST_SHORT_LIVES and lived_seconds < TRUSTED_SECONDS else 0
