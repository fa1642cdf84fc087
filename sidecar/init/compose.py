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
STATE = "rag-sidecar-state"
_SERVICE = "rag"
_VOLUME, _VOLUMES = f"{SIDECAR}:/var/lib/{SIDECAR}", f"volumes: {{{SIDECAR}: {{}}}}\n"
_THEIRS = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")
"""What Compose looks for, in its order."""
_WORDS = "true|false|yes|no|on|off|null|y|n"
"""What YAML does not take for a name."""


class Beside(NamedTuple):
    """`service` is watched and runs as `user`, UID:GID; `held`: a third container holds the pid namespace of both."""

    service: str
    user: str = USER
    image: str = IMAGE
    held: bool = False


def kit(beside: Beside, watched: Watched, folder: Path) -> Kit:
    """The override, and below rag-sidecar/ the sidecar.yml that it mounts. Raises SidecarError for odd names.

    Another user than the image's keeps the state in a folder: what an engine makes for a volume is not his.
    """
    name = f"sidecar-only{'-holder' * beside.held}.yml"
    path = folder / name
    override = _override((shipped("compose") / name).read_text(encoding="utf-8"), beside)
    theirs = next((folder / each for each in _THEIRS if (folder / each).exists()), folder / _THEIRS[0])
    files = f"-f {shlex.quote(str(theirs))} -f {shlex.quote(str(path))}"
    first = f"docker compose {files} config --quiet  # the service {beside.service} is to be in the first one"
    if beside.user != USER:
        owner, group = beside.user.split(":")
        first = f"sudo install -d -o {owner} -g {group} -m 700 {shlex.quote(str(folder / STATE))}  # for its state"
    return Kit({
        path: override,
        folder / SIDECAR / settings.FILE: settings.text(watched, SIDECAR),
    }, (first, f"docker compose {files} up -d  # the image {beside.image}: docs/compose.md"))


def _override(text: str, beside: Beside) -> str:
    fit(beside.service, rf"(?!(?i:{_WORDS})\Z)[A-Za-z][A-Za-z0-9._-]{{0,62}}", "the name of a service", _SERVICE)
    if beside.service in (SIDECAR, HOLDER):
        raise SidecarError(f"{beside.service} is what the sidecar's own service is called",
                           help="--service names the one that is watched")
    fit(beside.user, r"\d{1,10}:\d{1,10}", "a user and a group by their numbers", USER)
    fit(beside.image, r"[a-z0-9][a-z0-9._/:@-]{0,254}", "the name of an image", IMAGE)
    if beside.user != USER:  # a new volume belongs to the user of the image, and nobody may change that
        text = text.replace(_VOLUME, f"./{STATE}:/var/lib/{SIDECAR}").replace(_VOLUMES, "")
    return renamed(renamed(renamed(text, IMAGE, beside.image), USER, beside.user), _SERVICE, beside.service)
