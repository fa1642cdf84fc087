"""How we get in at one Alertmanager: the header Authorization and the TLS context, from files that may change."""

import base64
import re
import ssl
from pathlib import Path

from sidecar.notify.options import Alertmanager, Tls
from sidecar.secretfile import read_private

LONGEST_SECRET_BYTES = 4096


class Access:
    """Credentials and certificates of one Alertmanager. Lives as long as the notifier; files are read when needed."""

    def __init__(self, alertmanager: Alertmanager) -> None:
        self._of = alertmanager
        self._header: str | None = None
        self._context: ssl.SSLContext | None = None

    @property
    def server_name(self) -> str | None:
        """The name that its certificate must have; None: the one in the URL."""
        return (self._of.tls.server_name or None) if self._of.tls else None

    def header(self) -> str | None:
        """The header Authorization, None where none is configured. Raises ValueError if its file cannot be used."""
        if self._header is None:
            self._header = authorization(self._of)
        return self._header

    def renew(self) -> bool:
        """Read the secret anew: whether it is another one now. Raises ValueError if its file cannot be used."""
        before, self._header = self._header, None
        return self.header() != before

    def context(self) -> ssl.SSLContext | None:
        """What to connect with; None: what is usual. Raises ValueError if a file cannot be used."""
        if self._of.tls is None:
            return None
        if self._context is None:
            self._context = tls_context(self._of.tls)
        return self._context

    def forget_certificates(self) -> None:
        """Read the files anew for the next connection: they may have been replaced since."""
        if self._of.tls and (self._of.tls.ca_file or self._of.tls.cert_file):
            self._context = None


def authorization(alertmanager: Alertmanager) -> str | None:
    """The header Authorization, None where none is configured.

    Raises ValueError, with a whole sentence that does not hold the secret, if its file cannot be used.
    """
    if alertmanager.basic_auth:
        secret = _secret(alertmanager.basic_auth.password_file)
        user = alertmanager.basic_auth.username.encode()
        return f"Basic {base64.b64encode(user + b':' + secret).decode()}"
    if alertmanager.authorization:
        file = alertmanager.authorization.credentials_file
        secret = _secret(file)
        if not re.fullmatch(rb"[ -~]+", secret):
            raise ValueError(f"{file} holds no credentials: they must be printable ASCII characters in one line")
        return f"{alertmanager.authorization.type} {secret.decode()}"
    return None


def _secret(file: Path) -> bytes:
    found = read_private(file, LONGEST_SECRET_BYTES)
    if not 0 < len(found) <= LONGEST_SECRET_BYTES:
        raise ValueError(f"{file} {'is longer than 4096 bytes' if found else 'is empty'}: it holds no password")
    return found


def tls_context(tls: Tls) -> ssl.SSLContext:
    """What to connect with. Raises ValueError, with a whole sentence, if a file cannot be used."""
    file = tls.ca_file
    try:
        if tls.insecure_skip_verify:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        else:
            context = ssl.create_default_context(cafile=str(file) if file else None)
        if tls.cert_file and tls.key_file:
            file = tls.cert_file
            # Without a password of ours OpenSSL would ask for one at the terminal.
            context.load_cert_chain(tls.cert_file, tls.key_file, password="")
    except ssl.SSLError:
        raise ValueError(f"{tls.ca_file} does not hold certificates in PEM" if file == tls.ca_file else
                         f"{tls.cert_file} and {tls.key_file} do not hold a certificate and its key in PEM, without a "
                         "passphrase") from None
    except OSError as error:  # it does not say which file it was
        files = tls.ca_file if file == tls.ca_file else f"{tls.cert_file} or {tls.key_file}"
        raise ValueError(f"{files} cannot be read: {error.strerror}") from None
    return context
