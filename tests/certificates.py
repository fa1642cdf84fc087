"""Certificates for tests: made by openssl when they are needed, good for two days."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import servers

NEW = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")


def make(folder: Path, names: Mapping[str, tuple[str, str]]) -> Path:
    """The authorities ca.pem and other.pem in `folder`, and NAME.pem with NAME.key for each of `names`.

    `names` has who signs it, and its alternative names as openssl writes them, such as `DNS:localhost,IP:127.0.0.1`.
    """
    openssl = servers.needed(_openssl)

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True)

    for authority in ("ca", "other"):
        run(*NEW, "-keyout", f"{authority}.key", "-out", f"{authority}.pem", "-subj", f"/CN={authority}",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    for name, (signer, alternative) in names.items():
        run(*NEW, "-CA", f"{signer}.pem", "-CAkey", f"{signer}.key", "-keyout", f"{name}.key", "-out", f"{name}.pem",
            "-subj", f"/CN={name}", "-addext", f"subjectAltName={alternative}",
            "-addext", "basicConstraints=critical,CA:FALSE")
    run("pkey", "-in", "server.key", "-aes256", "-passout", "pass:words", "-out", "locked.key")
    return folder


def _openssl() -> Path:
    if found := shutil.which("openssl"):
        return Path(found)
    raise servers.NoServer("there is no openssl to make certificates with")
