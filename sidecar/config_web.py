"""The web config file (`--web.config.file`) → the terms of entrance, with every mistake as `file:line:col`."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sidecar.config_values import choice, path, truth
from sidecar.config_yaml import MAX_TEXT_CHARACTERS, Parse, Reader, read_file
from sidecar.web.protection import Protection
from sidecar.web.terms import CIPHERS, Cipher, Terms, TlsSection, WebConfigError, WebDocument

HELP = "docs/web-config.md describes every key; `rag-sidecar check web-config FILE` checks without starting anything"
HEADERS: dict[str, tuple[str, ...]] = {
    "Content-Security-Policy": (), "X-Frame-Options": ("deny", "sameorigin"), "X-Content-Type-Options": ("nosniff",),
    "X-XSS-Protection": (), "Strict-Transport-Security": (),
}
"""The headers that may be given → the values that they may have; (): any."""

Note = Callable[[str, str], None]


def protected_by(file: Path) -> Protection:
    """What a web config file says, from now on and whenever it changes. Raises WebConfigError with every mistake."""
    return Protection(file, read)


def read(file: Path) -> Terms:
    """What a web config file says, and the certificates that it names. Raises WebConfigError with every mistake."""
    folder = file.absolute().parent
    scalars: dict[Any, Parse] = {
        str: str, bool: truth, Path: lambda text: folder / path(text),
        Cipher: lambda text: choice(text, tuple(CIPHERS))}
    reader = Reader(str(file), scalars)
    document: WebDocument = read_file(reader, file, WebDocument())
    section, http = document.tls_server_config, document.http_server_config
    for where, what in (*_tls_mistakes(section), *_header_mistakes(http.headers)):
        reader.note(where, what)
    context = None
    if section != TlsSection() and not any(each.where.startswith("tls_server_config") for each in reader.problems):
        from sidecar.web.tls import server_context  # here: TLS is loaded only where it is spoken

        context = server_context(section, lambda key, what: reader.note(f"tls_server_config.{key}", what))
    users = _users(document, reader.note)
    files = (file, *section.files())
    if reader.problems:
        reader.problems.sort(key=lambda problem: (problem.line or MAX_TEXT_CHARACTERS, problem.column))
        raise WebConfigError(reader.problems, files, help=HELP)
    return Terms(context, http.headers, users, files)


def _tls_mistakes(section: TlsSection) -> Iterator[tuple[str, str]]:
    at = "tls_server_config"
    if section == TlsSection():
        return
    for name in ("cert", "key", "client_ca"):
        inline, file = getattr(section, name), getattr(section, f"{name}_file")
        if inline and file:
            yield f"{at}.{name}", f"{name} and {name}_file are given: one of them is enough"
        if name != "client_ca" and not inline and not file:
            yield at, f"{name}_file is missing (or {name}, which stands inline)"
    for key in ("min_version", "max_version"):
        if getattr(section, key) in ("TLS10", "TLS11"):
            yield f"{at}.{key}", f"{getattr(section, key)} has been broken for years and is not spoken: TLS12 or TLS13"
    if (section.min_version, section.max_version) == ("TLS13", "TLS12"):
        yield f"{at}.max_version", "is below min_version: nobody could connect"
    if section.client_auth_type in ("RequireAnyClientCert", "RequireClientCert"):
        yield f"{at}.client_auth_type", (
            f"{section.client_auth_type} takes every certificate, which anybody can make: it is not offered. "
            "RequireAndVerifyClientCert looks at who has signed it")
    if (section.client_ca or section.client_ca_file) and section.client_auth_type in ("NoClientCert",
                                                                                     "RequestClientCert"):
        yield f"{at}.client_ca{'_file' if section.client_ca_file else ''}", (
            f"client_auth_type is {section.client_auth_type}: no client is asked for a certificate that this one has "
            "signed. RequireAndVerifyClientCert does")
    if section.client_allowed_sans and section.client_auth_type != "RequireAndVerifyClientCert":
        yield f"{at}.client_allowed_sans", "needs client_auth_type: RequireAndVerifyClientCert"


def _header_mistakes(headers: Any) -> Iterator[tuple[str, str]]:
    for name, value in headers.items():
        where = f"http_server_config.headers.{name}"
        if name not in HEADERS:
            yield where, f"{name!r} cannot be set here: {', '.join(HEADERS)} can"
        elif HEADERS[name] and value not in HEADERS[name]:
            yield where, f"must be {' or '.join(HEADERS[name])}, not {value!r}"
        elif any(not " " <= each <= "~" for each in value):
            yield where, "must be printable ASCII characters in one line"


def _users(document: WebDocument, note: Note) -> dict[str, bytes]:
    """Name → hash."""
    if not document.basic_auth_users:
        return {}
    try:
        from sidecar.web.passwords import wrong_hash  # here: bcrypt need not be there
    except ImportError:
        note("basic_auth_users", "bcrypt, which compares passwords, is not installed: pip install 'rag-sidecar[auth]'")
        return {}
    for name, hashed in document.basic_auth_users.items():
        if wrong := wrong_hash(hashed):
            note(f"basic_auth_users.{name}", wrong)
        if ":" in name or not name:
            note(f"basic_auth_users.{name}", "a user's name is not empty and holds no ':'")
    return {name: hashed.encode() for name, hashed in document.basic_auth_users.items()}
