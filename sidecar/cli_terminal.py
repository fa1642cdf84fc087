"""What the terminal can do that the output goes to."""

import os
import sys
from typing import NamedTuple

from sidecar.config import environment

PROBE = "✓✗·…├└│▁█"


class Terminal(NamedTuple):
    """`plain`: it has no characters beyond ASCII. A file or a pipe is one of 80 columns without colours."""

    width: int
    colour: bool
    plain: bool


def terminal() -> Terminal:
    """The one behind standard output. NO_COLOR keeps it colourless."""
    is_one = sys.stdout.isatty()
    try:
        PROBE.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        plain = True
    else:
        plain = False
    width = os.get_terminal_size(sys.stdout.fileno()).columns if is_one else 80
    return Terminal(width or 80, is_one and not environment().get("NO_COLOR"), plain)
