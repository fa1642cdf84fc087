"""A sidecar beside a service of somebody's Compose file: the override that adds it, and its configuration."""

import shlex
from pathlib import Path
from typing import NamedTuple

from sidecar import __version__
from sidecar.errors import SidecarError
from sidecar.init import settings
from sidecar.init.kit import Kit, Watched, fit
from sidecar.init.shipped import renamed, shipped

SIDECAR, HOLDER = "rag-sidecar", "rag-holder"
IMAGE = f"rag-sidecar:{__version__}"
USER = "10001:10001"
_SERVICE = "rag"
_WORDS = "true|false|yes|no|on|off|null|y|n"
"""What YAML does not take for a name."""


class Beside(NamedTuple):
    """`service` is watched and runs as `user`, UID:GID; `held`: a third container holds the pid namespace of both."""

    service: str
    user: str = USER
    image: str = IMAGE
    held: bool = False


def kit(beside: Beside, watched: Watched, folder: Path) -> Kit:
    """The override, and below rag-sidecar/ the sidecar.yml that it mounts. Raises SidecarError for odd names."""
    name = f"sidecar-only{'-holder' * beside.held}.yml"
    path = folder / name
    files = f"-f compose.yaml -f {shlex.quote(str(path))}"
    return Kit({
        path: _override((shipped("compose") / name).read_text(encoding="utf-8"), beside),
        folder / SIDECAR / settings.FILE: settings.text(watched, SIDECAR),
    }, (f"docker compose {files} config --quiet  # compose.yaml is to have the service {beside.service}",
        f"docker compose {files} up -d  # {beside.image}: docs/compose.md"))


def _override(text: str, beside: Beside) -> str:
    fit(beside.service, rf"(?!(?i:{_WORDS})\Z)[A-Za-z][A-Za-z0-9._-]{{0,62}}", "the name of a service", _SERVICE)
    if beside.service in (SIDECAR, HOLDER):
        raise SidecarError(f"{beside.service} is what the sidecar's own service is called",
                           help="--service names the one that is watched")
    fit(beside.user, r"\d{1,10}:\d{1,10}", "a user and a group by their numbers", USER)
    fit(beside.image, r"[a-z0-9][a-z0-9._/:@-]{0,254}", "the name of an image", IMAGE)
    return renamed(renamed(renamed(text, IMAGE, beside.image), USER, beside.user), _SERVICE, beside.service)
