"""The status page in a real browser: what a person sees of a real leak, and what the buttons do."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Page, browsing
from conftest import Target
from servers import free_port
from sidecars import Sidecar, config, running_sidecar

from sidecar.web.static_files import FOLDER, TYPES

Spawn = Callable[..., Target]
TOKEN = "-".join(("correct", "horse", "battery", "staple"))
LIVE = "document.documentElement.dataset.awake === 'yes'"
HOSTILE = "<img src=x onerror=document.title=1>"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A browser for the tests of this file. Its pictures lie in the folder of the test run."""
    with browsing(tmp_path_factory.mktemp("status")) as page:
        yield page


@pytest.fixture(autouse=True)
def _fresh(page: Page) -> None:
    page.open("about:blank#0")
    page.look(1280, 900)
    page.problems.clear()
    page.requests.clear()


def watching(tmp_path: Path, port: int, pid: int, *, token: bool, name: str = "rag") -> str:
    """A target that drops everything on SIGUSR1 when it is over 100 MiB."""
    target = {"name": name, "match": {"pid": pid}, "cleanup": [{"signal": "SIGUSR1"}],
              "memory": {"main": "100MiB", "critical": "400MiB", "basis": "anon"}}
    web: dict[str, Any] = {"listen": f"127.0.0.1:{port}"}
    if token:
        (tmp_path / "token").touch(0o600)
        (tmp_path / "token").write_text(TOKEN)
        web["token_file"] = str(tmp_path / "token")
    return config(port, tmp_path / "state", [target], web=web, evaluation_interval="500ms")


@pytest.fixture
def watched(spawn: Spawn, tmp_path: Path) -> Iterator[tuple[Target, Sidecar]]:
    """A program that cleans up when told, and a sidecar with a token."""
    target, port = spawn("leaky", "--handle", "SIGUSR1"), free_port()
    with running_sidecar(tmp_path, file=watching(tmp_path, port, target.pid, token=True), port=port) as sidecar:
        yield target, sidecar


def opened(page: Page, sidecar: Sidecar) -> None:
    """Open the page and wait until its scripts run."""
    page.open(f"{sidecar.url}/")
    page.until(LIVE, "the scripts to run")


def see(page: Page, words: str, selector: str = "body", seconds: float = 40.0) -> None:
    """Wait until a person reads these words there."""
    page.until(f"document.querySelector({json.dumps(selector)})?.innerText.includes({json.dumps(words)})",
               f"{words!r} in {selector}", seconds)


def drawn(page: Page, name: str) -> bool:
    """Whether the chart has pixels of the colour with this name."""
    found: bool = page.run(f"""(() => {{
        const canvas = document.querySelector(".chart canvas");
        const paint = document.createElement("canvas").getContext("2d");
        paint.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--{name}");
        paint.fillRect(0, 0, 1, 1);
        const wanted = paint.getImageData(0, 0, 1, 1).data;
        const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        for (let at = 0; at < data.length; at += 4)
            if (data[at + 3] > 200 && [0, 1, 2].every(n => Math.abs(data[at + n] - wanted[n]) < 4)) return true;
        return false;
    }})()""")
    return found


def all_well(page: Page, sidecar: Sidecar) -> None:
    """Nothing is wrong in the console, and nobody but the sidecar was asked for anything."""
    assert page.problems == []
    assert {url for url in page.requests if not url.startswith((f"{sidecar.url}/", "about:"))} == set()


def test_a_leak_is_seen_live_with_its_alert_and_cleanup(page: Page, watched: tuple[Target, Sidecar]) -> None:
    """On the open page memory grows over its lines, the alert fires and the cleanup helps, without reloading."""
    target, sidecar = watched
    opened(page, sidecar)
    page.run("window.untouched = true")
    assert "None." in page.text("#alerts")
    target.tell("grow 200")
    see(page, "RagMemoryMain", "#alerts")
    see(page, "effective", "#cleanups")
    see(page, "freed ", "#cleanups")
    see(page, "rag: main", "#incidents")
    page.until("document.querySelector('.chart').getAttribute('aria-label').includes('1 cleanups')", "the mark")
    assert page.run("window.untouched") is True
    all_well(page, sidecar)
    for name in ("used", "main", "incident", "good"):
        assert drawn(page, name), page.picture(name)


def test_figures_and_what_can_be_seen_are_told(page: Page, watched: tuple[Target, Sidecar]) -> None:
    """The card names the Python, its collections, and what cannot be seen of the program, with the reason."""
    opened(page, watched[1])
    see(page, "collections", "[data-target=rag]")
    see(page, "cannot see: an agent in it", "[data-target=rag] summary")
    page.run("document.querySelector('summary').focus()")
    page.key("Enter", 13)
    see(page, "rag-sidecar doctor --pid", "[data-target=rag] details")
    assert "No socket rag-sidecar-" in page.text("[data-target=rag] details")
    see(page, "up", "[data-target=rag]")
    page.run("new Promise(done => setTimeout(done, 2500))")
    assert page.run("document.querySelector('details').open") is True


def test_buttons_pause_and_resume_after_asking(page: Page, watched: tuple[Target, Sidecar]) -> None:
    """Pause and resume ask first, want the token once, keep it in this tab alone, and are carried out."""
    _, sidecar = watched
    opened(page, sidecar)
    page.click("[data-order=pause]")
    see(page, "Pause rag?", "dialog")
    page.key("", words="not the token")
    page.key("Enter", 13)
    see(page, "not the token", "dialog .answer")
    assert page.run("sessionStorage.length") == 0
    page.run("document.querySelector('dialog input').select()")
    page.key("", words=TOKEN)
    page.key("Enter", 13)
    see(page, "Paused.", "dialog .answer")
    page.key("Escape", 27)
    see(page, "Paused until", "[data-target=rag]")
    assert page.run("[sessionStorage.length, localStorage.length, document.cookie]") == [1, 0, ""]
    page.click("[data-order=resume]")
    page.until("document.querySelector('dialog input').checkVisibility() === false", "not to be asked again")
    page.click("dialog .first")
    see(page, "Resumed.", "dialog .answer")
    page.until("document.querySelector('[data-paused]') === null", "the pause to end")
    assert [problem for problem in page.problems if "401" not in problem] == []


def test_an_order_that_is_refused_says_why(page: Page, watched: tuple[Target, Sidecar]) -> None:
    """A cleanup without an alert is refused in words, beside the command that does it on the machine."""
    _, sidecar = watched
    opened(page, sidecar)
    page.run(f"sessionStorage.setItem('rag-sidecar.token', {json.dumps(TOKEN)})")
    page.click("[data-order=cleanup]")
    see(page, "rag-sidecar cleanup --target rag", "dialog")
    assert sidecar.actions() == []
    page.click("dialog .first")
    see(page, "no alert asks for a cleanup of it", "dialog .answer", 50)


def test_a_cleanup_is_ordered_and_followed(page: Page, spawn: Spawn, tmp_path: Path) -> None:
    """While an alert asks, the button asks for a stronger cleanup, and tells how it goes until bytes are counted."""
    target, port = spawn("leaky", "--handle", "SIGUSR1"), free_port()
    file = json.loads(watching(tmp_path, port, target.pid, token=True))
    file["targets"][0]["cleanup"] = [{"signal": {"aggressive": "SIGUSR1"}}]
    file["actions"]["policies"] = {"main": {"entry": "light", "max": "light"}}
    with running_sidecar(tmp_path, file=json.dumps(file), port=port) as sidecar:
        opened(page, sidecar)
        page.run(f"sessionStorage.setItem('rag-sidecar.token', {json.dumps(TOKEN)})")
        target.tell("grow 200")
        see(page, "firing", "#alerts")
        assert page.run("document.title") == "(1) rag-sidecar"
        page.click("[data-order=cleanup]")
        page.run("document.querySelector('dialog select').value = 'aggressive'")
        page.click("dialog .first")
        see(page, "effective, freed", "dialog .answer")
        see(page, "asked by api", "#cleanups")
        all_well(page, sidecar)


def test_without_a_token_the_buttons_say_how_to_set_one(page: Page, spawn: Spawn, tmp_path: Path) -> None:
    """A sidecar without a token says so at the first click, and names the setting and the command."""
    target, port = spawn("leaky"), free_port()
    with running_sidecar(tmp_path, file=watching(tmp_path, port, target.pid, token=False), port=port) as sidecar:
        opened(page, sidecar)
        page.click("[data-order=pause]")
        for words in ("No token is configured", "token_file", "rag-sidecar pause --target rag"):
            see(page, words, "dialog")
        assert page.run("document.querySelector('dialog input')") is None
        page.key("Escape", 27)
        assert page.run("document.querySelector('dialog').open") is False
        all_well(page, sidecar)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_fits_a_phone_in_light_and_dark(page: Page, watched: tuple[Target, Sidecar], dark: bool) -> None:
    """At 380 px nothing is cut off or scrolls sideways, and words stand out from their ground in both colours."""
    page.look(380, 800, dark=dark)
    opened(page, watched[1])
    page.click("[data-order=pause]")
    see(page, "Pause rag?", "dialog")
    assert page.run("document.documentElement.scrollWidth") == 380
    assert page.run("document.querySelector('dialog').getBoundingClientRect().right") <= 380
    assert page.run(CONTRASTS) == []
    assert page.run("getComputedStyle(document.body).backgroundColor").startswith("rgb(1" if dark else "rgb(2")


CONTRASTS = """(() => {
    const paint = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const shine = (...layers) => {
        for (const layer of layers) { paint.fillStyle = layer; paint.fillRect(0, 0, 1, 1); }
        const [r, g, b] = Array.from(paint.getImageData(0, 0, 1, 1).data).map(v => v / 255)
            .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const faint = [];
    for (const element of document.querySelectorAll("body *")) {
        if (!element.checkVisibility()) continue;
        if (![...element.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
        const grounds = [];
        for (let at = element; at; at = at.parentElement) grounds.unshift(getComputedStyle(at).backgroundColor);
        const ground = shine("white", ...grounds), ink = shine("white", ...grounds, getComputedStyle(element).color);
        const contrast = (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
        if (contrast < 4.5) faint.push([element.outerHTML.slice(0, 90), contrast]);
    }
    return faint;
})()"""


def test_the_chart_is_read_with_the_keyboard(page: Page, watched: tuple[Target, Sidecar]) -> None:
    """Arrow keys walk along the chart and tell time and bytes; Escape ends that."""
    opened(page, watched[1])
    page.until("document.querySelector('.chart').getAttribute('aria-label')?.includes('now')", "values")
    page.run("document.querySelector('.chart').focus()")
    page.key("ArrowLeft", 37)
    page.until(r"/^\d\d:\d\d:\d\d · .* MiB/.test(document.querySelector('.readout').innerText)", "the readout")
    page.key("Escape", 27)
    see(page, "highest", ".readout")


def test_a_sidecar_that_is_gone_is_told(page: Page, watched: tuple[Target, Sidecar]) -> None:
    """When nothing answers any more the page says since when, instead of showing old figures as new ones."""
    opened(page, watched[1])
    watched[1].stop()
    see(page, "has not answered since", "#offline")
    assert "old" in page.run("document.querySelector('.chart').className")


def test_names_of_targets_are_text(page: Page, spawn: Spawn, tmp_path: Path) -> None:
    """Markup in what a program or a rule is called is shown as it is, and never runs."""
    target, port = spawn("leaky"), free_port()
    file = json.loads(watching(tmp_path, port, target.pid, token=False))
    rules = {"groups": [{"name": "g", "interval": "1s", "rules": [{
        "alert": "Odd", "expr": "rag_target_up == 1", "labels": {"severity": "info"},
        "annotations": {"summary": HOSTILE}}]}]}
    (tmp_path / "odd.yml").write_text(json.dumps(rules))
    with running_sidecar(tmp_path, file=json.dumps({**file, "rules": ["odd.yml"]}), port=port) as sidecar:
        opened(page, sidecar)
        see(page, HOSTILE, "#alerts")
        assert page.run("document.title").endswith("rag-sidecar")
        assert page.run("document.querySelectorAll('main img').length") == 0
        all_well(page, sidecar)


def test_without_scripts_the_page_is_complete(page: Page, watched: tuple[Target, Sidecar]) -> None:
    """A browser that runs no scripts shows the same words, a bar instead of the chart, and looks again by itself."""
    page.look(1280, 900, scripts=False)
    page.open(f"{watched[1].url}/")
    for words in ("rag", "MiB", "Sees ", "collections", "ready"):
        assert words in page.text()
    assert page.run("document.querySelector('meter').checkVisibility() && !document.querySelector('.chart')")
    assert page.run("document.querySelector('noscript meta').content") == "5"


def test_files_are_kept_and_asked_about(watched: tuple[Target, Sidecar]) -> None:
    """A browser gets each file once, and 304 for as long as it is the same; what is not in the list is not there."""
    _, sidecar = watched
    assert {path.name for path in FOLDER.iterdir()} == {*TYPES, "README.md"}
    for name in TYPES:
        with urllib.request.urlopen(f"{sidecar.url}/static/{name}") as answer:
            assert answer.read() == (FOLDER / name).read_bytes()
            assert answer.headers["Cache-Control"] == "no-cache"
            tag = answer.headers["ETag"]
        assert status(sidecar, name, tag) == 304
        assert status(sidecar, name, '"other"') == 200
    for name in ("README.md", "nothing", "../page.py", "%2e%2e/page.py", "..%2fpage.py", ""):
        assert status(sidecar, name) == 404


def status(sidecar: Sidecar, name: str, tag: str = "") -> int:
    """The status of a file."""
    request = urllib.request.Request(f"{sidecar.url}/static/{name}", headers={"If-None-Match": tag} if tag else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
