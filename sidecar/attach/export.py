"""The agent as a file for other people's programs and images, with a page on how to start it."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sidecar import __version__
from sidecar.errors import SidecarError

AGENT = Path(__file__).resolve().parent.parent / "agent.py"
LONGEST_BYTES = 1 << 20

README = f"""\
# The agent of rag-sidecar {__version__}

`agent.py` is one file without dependencies, for Python 3.8 and later. Rename it as you like. Ways to start it:

- in the program: `import agent; agent.start()`
- without changing the program: put this folder on PYTHONPATH, with a `sitecustomize.py` of these two words in it
- gunicorn, in its configuration: `def post_fork(server, worker): import agent; agent.start()`
- in an image: `COPY agent.py /opt/rag-agent/agent.py` and `ENV PYTHONPATH=/opt/rag-agent`
- what to register, and what it answers: docs/agent.md of rag-sidecar. `python -c "import agent; print(agent.VERSION)"`
"""


def export(folder: Path, *, force: bool) -> Iterator[tuple[Path, str]]:
    """Write the files; each one's path and what was done. Raises SidecarError, before anything is written, where a file
    is in the way that differs and is not to be overwritten."""
    files = {folder / "agent.py": AGENT.read_bytes(), folder / "README.md": README.encode()}
    try:
        same = {path: _content(path) for path in files}
        differing = [path for path, content in files.items() if same[path] not in (None, content)]
        if differing and not force:
            raise SidecarError(f"{' and '.join(map(str, differing))}: there already, and different",
                               help="--force overwrites; another version's agent goes on working with this sidecar")
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in files.items():
            if same[path] != content:
                _replace(path, content)
            yield path, {None: "written", content: "there already"}.get(same[path], "overwritten")
    except OSError as error:
        raise SidecarError(f"cannot write {error.filename or folder}: {error.strerror}",
                           help="name a folder that you may write to") from None


def _content(path: Path) -> bytes | None:
    """What is there; None if nothing is."""
    try:
        with path.open("rb") as file:
            return file.read(LONGEST_BYTES)
    except FileNotFoundError:
        return None


def _replace(path: Path, content: bytes) -> None:
    """Whole or not at all: a program may be reading it."""
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            os.fchmod(fd, 0o644)
        os.replace(name, path)
    except OSError:
        os.unlink(name)
        raise
