"""Tokens that stand in files of their own: read once at the start, never shown."""

import re
from pathlib import Path

from sidecar.secretfile import read_private

SHORTEST_TOKEN, LONGEST_TOKEN = 16, 4096


def read_token(file: Path) -> str:
    """The token that is the whole content of a file, without the white space around it.

    Raises ValueError, with a whole sentence that does not hold the token, if it cannot be read, if others than its
    owner may read it, or if it is no token: 16 to 4096 printable ASCII characters without a space.
    """
    text = read_private(file, LONGEST_TOKEN).decode("ascii", "replace")
    if not re.fullmatch(rf"[!-~]{{{SHORTEST_TOKEN},{LONGEST_TOKEN}}}", text):
        raise ValueError(f"{file} holds no token: it must be {SHORTEST_TOKEN} to {LONGEST_TOKEN} printable ASCII "
                         "characters, for example those of `openssl rand -hex 32`")
    return text
