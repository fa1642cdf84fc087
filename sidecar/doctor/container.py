"""What the Docker engine says, where a target is a container."""

from collections.abc import Mapping

from sidecar.discovery.container import Container
from sidecar.discovery.engine import Engine, ask
from sidecar.discovery.match import ByDocker, Match
from sidecar.doctor.facts import Fact

GROUP = "machine"


def fact(host: str, engine: Engine) -> Fact:
    """Whether the engine at `host` answers; `engine` has asked it."""
    if not engine.trouble:
        return Fact(GROUP, "docker", "ok", f"{host}: {engine.version}")
    do = "is its path right, and is it mounted here? docker.host or DOCKER_HOST names it"
    if "denied" in engine.trouble:
        do = ("give the sidecar's user the group of the socket, which makes root of whoever gets in, or a proxy that "
              "lets only GETs through (docs/docker.md)")
    return Fact(GROUP, "docker", "missing", engine.trouble, "containers are not found through it",
                f"{do}; without it name the target by cmdline or port")


def why_not(found: Container | str) -> tuple[str, str]:
    """Why no process of a container is seen, and what to do."""
    if isinstance(found, str):
        return found, "`docker ps -a` shows the containers there are, `docker inspect NAME` their labels"
    if not found.pid:
        return f"the container {found.name} does not run", f"`docker logs {found.name}` may say why"
    return (f"the container {found.name} runs as process {found.pid} of the engine's machine, and is not seen here",
            "run the sidecar on that machine's host, or with pid: \"service:…\" or pid: host (docs/docker.md)")


def asked(host: str, matches: Mapping[str, Match]) -> tuple[Engine | None, tuple[Fact, ...]]:
    """The engine at `host`, when it was asked for those targets that are containers, and whether it answered."""
    wanted = {name: match for name, match in matches.items() if isinstance(match, ByDocker)}
    engine = ask(host, wanted) if wanted else None
    return engine, (fact(host, engine),) if engine else ()
