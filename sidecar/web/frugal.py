"""aiohttp without what it brings along for programs of other kinds, which would take up to 2 MiB of memory."""

import mimetypes
import ssl
from html import entities


def load() -> None:
    """Import aiohttp; to be called before anything else does.

    It would read the machine's authorities twice, for connections that say nothing of TLS; all of ours do, with
    `trust.context_for`. One that did not would believe nobody. And it would read files about types of files, of which
    we serve few, and carries names of characters that are needed to read HTML, which we only write.
    """
    mimetypes.knownfiles.clear()
    for table in (entities.html5, entities.name2codepoint, entities.codepoint2name, entities.entitydefs):
        table.clear()
    before = ssl.SSLContext.set_default_verify_paths
    ssl.SSLContext.set_default_verify_paths = lambda self: None  # type: ignore[method-assign]
    try:
        import aiohttp  # noqa: F401
    finally:
        ssl.SSLContext.set_default_verify_paths = before  # type: ignore[method-assign]
