"""How a command gets in at a web server: certificates and a password or a token, as `promtool` takes them."""

import argparse
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sidecar.config_values import path, truth
from sidecar.config_yaml import Parse, Reader, read_file
from sidecar.errors import ConfigError, SidecarError
from sidecar.notify.options import Alertmanager, Authorization, BasicAuth, RootUrl, Tls

KNOWN = "--http.config.file FILE"
HELP = "docs/web-config.md, \"The other side\", has an example"


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """The file: what of Prometheus's http_config the commands know."""

    tls_config: Tls | None = None
    basic_auth: BasicAuth | None = None
    authorization: Authorization | None = None


class Pass(NamedTuple):
    """What lets in: the header Authorization ("": none), and what to connect with (None: what is usual)."""

    header: str = ""
    context: ssl.SSLContext | None = None


NOBODY = Pass()


def add_flag(parser: argparse.ArgumentParser) -> None:
    """The flag that names the file."""
    parser.add_argument("--http.config.file", dest="http_config", metavar="FILE", type=Path,
                        help="certificates, and a password or a token, for a web server; as for promtool")


def read_pass(file: Path | None) -> Pass:
    """What the file says. Raises ConfigError with every mistake."""
    if file is None:
        return Pass()
    from sidecar.notify.access import authorization, tls_context

    folder = file.absolute().parent
    scalars: dict[Any, Parse] = {str: str, bool: truth, Path: lambda text: folder / path(text)}
    reader = Reader(str(file), scalars)
    found: HttpConfig = read_file(reader, file, HttpConfig())
    header, context = "", None
    if not reader.problems:
        try:
            where, server = "", _server(found)
            where = "basic_auth.password_file" if found.basic_auth else "authorization.credentials_file"
            header = authorization(server) or ""
            where = "tls_config"
            context = tls_context(found.tls_config) if found.tls_config else None
        except ValueError as error:
            reader.note(where, str(error))
    if reader.problems:
        raise ConfigError(reader.problems, help=HELP)
    return Pass(header, context)


def untrusted(url: str, error: ssl.SSLError) -> SidecarError:
    """What is told where TLS fails."""
    what = getattr(error, "verify_message", "") or (error.reason or str(error)).lower().replace("_", " ")
    return SidecarError(f"cannot ask {url}: TLS failed: {what}",
                        help=f"{KNOWN} names who signs its certificate, and ours if it wants one: docs/web-config.md")


def _server(found: HttpConfig) -> Alertmanager:
    """Somebody to whom that is shown: an Alertmanager is asked in the same way. Raises ValueError."""
    return Alertmanager(RootUrl("https:"), found.tls_config, found.basic_auth, found.authorization)
