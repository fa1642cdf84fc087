"""The Alertmanagers of sidecar.yml, each maybe by its URL alone, and what is wrong with them."""

from collections.abc import Iterator, Sequence

from sidecar.config_values import base_url
from sidecar.notify.options import Alertmanager, RootUrl


def root_url(text: str) -> RootUrl:
    """An http or https URL below which paths are added."""
    return RootUrl(base_url(text))


def at_urls(texts: Sequence[str]) -> tuple[Alertmanager, ...]:
    """Those at these URLs, each once."""
    return tuple(map(Alertmanager, dict.fromkeys(map(root_url, texts))))


def unusable(alertmanagers: Sequence[Alertmanager]) -> Iterator[tuple[str, str]]:
    """(where, what) of those that are named twice, and of files that cannot be used."""
    urls: set[str] = set()
    for index, each in enumerate(alertmanagers):
        if not isinstance(each, Alertmanager):
            continue  # noted already
        if each.url in urls:
            yield f"alertmanagers[{index}]", "this one is named already"
        urls.add(each.url)
        if each.tls or each.basic_auth or each.authorization:
            yield from _unusable_files(each, f"alertmanagers[{index}]")


def _unusable_files(each: Alertmanager, where: str) -> Iterator[tuple[str, str]]:
    from sidecar.notify.access import authorization, tls_context  # TLS takes a while to load

    try:
        authorization(each)
    except ValueError as error:
        key = "basic_auth.password_file" if each.basic_auth else "authorization.credentials_file"
        yield f"{where}.{key}", str(error)
    if each.tls:
        try:
            tls_context(each.tls)
        except ValueError as error:
            yield f"{where}.tls", str(error)


def insecure(alertmanagers: Sequence[Alertmanager]) -> Iterator[str]:
    """What to warn of."""
    for each in alertmanagers:
        if each.tls and each.tls.insecure_skip_verify:
            yield f"{each.shown}: insecure_skip_verify lets anybody on the way answer in its place and read the alerts"
