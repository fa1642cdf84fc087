"""The files that a configuration was read from, looked at again and again: has somebody changed them?"""

import glob
import os
from collections.abc import Iterable
from hashlib import sha256

MOST_BYTES = 16 << 20
"""So much of a file is looked at; what is longer is no configuration."""


class Files:
    """Configuration and rules, by patterns as of `glob`. Lives as long as the desk.

    Nothing depends on being told by the kernel: where a ConfigMap is mounted a symbolic link to a folder is replaced,
    over a network nobody tells of anything.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self.take(patterns)

    def take(self, patterns: Iterable[str]) -> None:
        """What these stand for now is known: it is about to be read."""
        self._patterns = tuple(patterns)
        self._seen = self._known = self._stats()
        self._content = self._digest()

    def changed(self) -> bool:
        """Whether they have another content than was known, and have looked the same at this look and the last one.

        What is just being written changes from look to look, and is left alone.
        """
        before, self._seen = self._seen, self._stats()
        if self._seen in (self._known, ()) or self._seen != before:
            return False
        self._known = self._seen
        return self._digest() != self._content

    def _paths(self) -> list[str]:
        return sorted({path for pattern in self._patterns for path in glob.glob(pattern, recursive=True)})

    def _stats(self) -> tuple[tuple[str, int, int, int], ...]:
        found = []
        for path in self._paths():
            try:
                stat = os.stat(path)
            except OSError:
                continue  # removed since
            found.append((path, stat.st_mtime_ns, stat.st_size, stat.st_ino))
        return tuple(found)

    def _digest(self) -> bytes:
        digest = sha256()
        for path in self._paths():
            try:
                with open(path, "rb") as file:
                    content = file.read(MOST_BYTES)
            except OSError:  # a folder, or removed since
                continue
            digest.update(f"{path}\0{len(content)}\0".encode())
            digest.update(content)
        return digest.digest()
