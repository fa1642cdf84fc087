"""The files that come with rag-sidecar, rewritten for other names where they are whole words."""

import re
from pathlib import Path

from sidecar.errors import SidecarError

_PACKAGE = Path(__file__).resolve().parent.parent
_PLACES = (_PACKAGE / "shipped", _PACKAGE.parent)
"""Where they are: in an installation, in a checkout."""


def shipped(folder: str) -> Path:
    """A folder of them. Raises SidecarError where it is missing."""
    for place in _PLACES:
        if (place / folder).is_dir():
            return place / folder
    raise SidecarError(f"the folder {folder} is missing from this installation", help="install rag-sidecar again")


def renamed(text: str, name: str, new: str) -> str:
    """`text` with another name: not where it is a part of a longer one, such as rag in rag-sidecar."""
    return re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])", lambda _: new, text)
