"""What a web config file may say, key for key, and the terms of entrance that come out of it. Values only.

The format is that of Prometheus's exporter-toolkit (docs/web-configuration.md there).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, NewType

from sidecar.errors import ConfigError, Problem

if TYPE_CHECKING:  # TLS is loaded only where it is spoken
    import ssl

Cipher = NewType("Cipher", str)
Version = Literal["TLS12", "TLS13", "TLS11", "TLS10"]
Curve = Literal["CurveP256", "CurveP384", "CurveP521", "X25519"]
ClientAuth = Literal["NoClientCert", "RequestClientCert", "RequireAnyClientCert", "RequireClientCert",
                     "VerifyClientCertIfGiven", "RequireAndVerifyClientCert"]

CIPHERS: Mapping[str, str] = {
    "TLS_AES_128_GCM_SHA256": "",
    "TLS_AES_256_GCM_SHA384": "",
    "TLS_CHACHA20_POLY1305_SHA256": "",
    **{f"TLS_ECDHE_{key}_WITH_{go}": f"ECDHE-{key}-{openssl}" for key in ("ECDSA", "RSA") for go, openssl in (
        ("AES_128_GCM_SHA256", "AES128-GCM-SHA256"), ("AES_256_GCM_SHA384", "AES256-GCM-SHA384"),
        ("CHACHA20_POLY1305_SHA256", "CHACHA20-POLY1305"), ("AES_128_CBC_SHA", "AES128-SHA"),
        ("AES_256_CBC_SHA", "AES256-SHA"))},
}
"""Go's name of a cipher suite → OpenSSL's; "" for those of TLS 1.3, among which neither lets anybody choose."""


@dataclass(frozen=True, slots=True)
class TlsSection:
    """The section `tls_server_config`. Files are PEM, and so are `cert`, `key` and `client_ca`, which stand inline."""

    cert: str = ""
    key: str = field(default="", repr=False)
    client_ca: str = ""
    cert_file: Path | None = None
    key_file: Path | None = None
    client_ca_file: Path | None = None
    client_auth_type: ClientAuth = "NoClientCert"
    client_allowed_sans: tuple[str, ...] = ()
    min_version: Version = "TLS12"
    max_version: Version = "TLS13"
    cipher_suites: tuple[Cipher, ...] = ()
    prefer_server_cipher_suites: bool = True
    curve_preferences: tuple[Curve, ...] = ()

    def files(self) -> tuple[Path, ...]:
        """Those that it names."""
        return tuple(file for file in (self.cert_file, self.key_file, self.client_ca_file) if file)


@dataclass(frozen=True, slots=True)
class HttpSection:
    """The section `http_server_config`. `http2` changes nothing: HTTP/1.1 is what is spoken."""

    http2: bool = True
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WebDocument:
    """The whole file. `basic_auth_users` has the bcrypt hash of each user's password."""

    tls_server_config: TlsSection = TlsSection()
    http_server_config: HttpSection = HttpSection()
    basic_auth_users: Mapping[str, str] = field(default_factory=dict, repr=False)


class Terms(NamedTuple):
    """On which terms somebody is let in: with which TLS (None: none), as whom (nobody named: everybody).

    `headers` are added to every answer, "" takes one away. `files` are those that this was read from.
    """

    context: "ssl.SSLContext | None"
    headers: Mapping[str, str]
    users: Mapping[str, bytes]
    files: tuple[Path, ...]


class WebConfigError(ConfigError):
    """A web config file that cannot be used. `files` are those that have to change before it can."""

    def __init__(self, problems: Sequence[Problem], files: tuple[Path, ...], *, help: str = "") -> None:
        super().__init__(problems, help=help)
        self.files = files
