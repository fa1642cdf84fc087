"""What is configured of one Alertmanager: where it is, how it proves who it is, and how we do. Values only.

They are not compared, and a representation of theirs could hold a secret: both would take memory for nothing.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NewType

RootUrl = NewType("RootUrl", str)
TIMEOUT_SECONDS = 10.0
LONGEST_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Tls:
    """How the two prove who they are; files are PEM. Without `ca_file` the system's authorities are trusted.

    `server_name` is the name that the certificate must have, where it is not the one in the URL.
    `insecure_skip_verify`: anybody may answer in the place of the Alertmanager.
    """

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    server_name: str = ""
    insecure_skip_verify: bool = False

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file go together: give both or neither")
        if self.server_name and not re.fullmatch(r"[A-Za-z0-9._:-]{1,253}", self.server_name):
            raise ValueError("server_name must be the name of a host")
        if self.insecure_skip_verify and (self.ca_file or self.server_name):
            raise ValueError("insecure_skip_verify means that neither ca_file nor server_name is looked at: leave out "
                             "the one or the others")

    def __str__(self) -> str:
        if self.insecure_skip_verify:
            parts = ["insecure_skip_verify"]
        else:
            parts = [f"{key} {value}" for key in ("ca_file", "server_name") if (value := getattr(self, key))]
        return ", ".join([*parts, *([f"cert_file {self.cert_file}"] if self.cert_file else [])])


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class BasicAuth:
    """A user, and the file whose content is the password."""

    username: str
    password_file: Path

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[^\x00-\x1f\x7f:]{1,255}", self.username):
            raise ValueError("username must be 1 to 255 characters, none of them ':' or a control character")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Authorization:
    """The file whose content follows `type` in the header Authorization."""

    credentials_file: Path
    type: str = "Bearer"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]{0,31}", self.type) or self.type.lower() == "basic":
            raise ValueError("type must be a word such as Bearer; for Basic give basic_auth")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Alertmanager:
    """One Alertmanager, or those whose addresses its host name has. `url` is its root, maybe with a path prefix.

    `timeout_seconds` is for everything from connecting to the end of the answer.
    """

    ALONE: ClassVar = "url"
    url: RootUrl
    tls: Tls | None = None
    basic_auth: BasicAuth | None = None
    authorization: Authorization | None = None
    timeout_seconds: float = TIMEOUT_SECONDS

    def __post_init__(self) -> None:
        if not 0 < self.timeout_seconds <= LONGEST_TIMEOUT_SECONDS:
            raise ValueError(f"timeout must be more than 0s and at most {LONGEST_TIMEOUT_SECONDS:g}s")
        if self.tls and not self.url.startswith("https:"):
            raise ValueError("tls is given, but the URL does not begin with https")
        in_url = "@" in self.url.partition("://")[2].partition("/")[0]
        if sum((bool(self.basic_auth), bool(self.authorization), in_url)) > 1:
            raise ValueError("give one of basic_auth, authorization and credentials in the URL")

    @property
    def shown(self) -> str:
        """The URL as it may be shown."""
        return without_credentials(self.url)

    def __str__(self) -> str:
        parts = [f"tls: {self.tls}"] if self.tls else []
        if self.basic_auth:
            parts.append(f"user {self.basic_auth.username}, password from {self.basic_auth.password_file}")
        if self.authorization:
            parts.append(f"{self.authorization.type} from {self.authorization.credentials_file}")
        if self.timeout_seconds != TIMEOUT_SECONDS:
            parts.append(f"timeout {self.timeout_seconds:g}s")
        return self.shown + (f" ({'; '.join(parts)})" if parts else "")


def without_credentials(url: str) -> str:
    """The URL as it may be shown: less `user:password@`, query and fragment.

    Everything before the last `@` goes, also where a `/` inside a password makes the URL ambiguous.
    """
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}".partition("?")[0].partition("#")[0]
