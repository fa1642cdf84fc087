"""A real browser for tests: Chromium without a window, driven by its DevTools protocol.

One on PATH is used as it is; otherwise Debian's chromium-headless-shell is fetched with the libraries that this machine
lacks, and unpacked into `.cache/servers/`: nothing is installed. Protocol: https://chromedevtools.github.io/devtools-protocol
"""

import asyncio
import base64
import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import servers
from servers import CACHE, end, wait_until

PACKAGE = "chromium-headless-shell"
PROGRAMS = (PACKAGE, "chromium", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--remote-debugging-port=0", "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)  # fmt: skip
ANSWER_SECONDS = 60.0
NOT_OURS = ("libc6", "libc-bin", "libc6-dev")
"""The machine's own loader fits the machine's own libc alone."""


def find() -> tuple[Path, dict[str, str]]:
    """The program and the environment that it needs. Raises servers.NoServer."""
    for name in PROGRAMS:
        if found := shutil.which(name):
            return Path(found), {}
    folder = servers.unpacked(PACKAGE, _fetch)
    libraries = sorted({str(path.parent) for path in folder.glob("**/lib/*-linux-gnu*/**/*.so*")})
    env = {"LD_LIBRARY_PATH": ":".join(libraries)}
    if not Path("/etc/fonts/fonts.conf").exists():
        env["FONTCONFIG_FILE"] = str(folder / "fonts.conf")
    return folder / "usr" / "lib" / "chromium" / PACKAGE, env


def _fetch(work: Path) -> None:
    """The package, what it needs that is not installed here, and where it finds fonts."""
    def download(options: list[str]) -> None:
        plan = servers.apt(work, *options, "install", "--simulate", "--no-install-recommends", PACKAGE, quiet=False)
        names = [name for name in re.findall(r"^Inst (\S+)", plan, re.MULTILINE) if name not in NOT_OURS]
        servers.apt(work, *options, "download", *names)

    servers.from_lists(work, download)
    servers.unpack(work)
    folder = CACHE / PACKAGE
    (work / "unpacked" / "fonts.conf").write_text(
        f"<fontconfig><dir>/usr/share/fonts</dir><dir>{folder}/usr/share/fonts</dir>"
        f"<cachedir>{folder}/fonts</cachedir></fontconfig>\n")


class Page:
    """A tab. Lives until its context ends. `problems` is what its console says, `requests` what it asks for."""

    def __init__(self, folder: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.problems: list[str] = []
        self.requests: list[str] = []
        self._loop = loop
        self._folder = folder
        self._count = 0

    async def attach(self, port: int) -> None:
        """Take hold of the one tab of a browser."""
        import aiohttp  # here: whoever fetches the browser may not have it yet

        self._session = aiohttp.ClientSession()
        async with self._session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            tabs = await answer.json()
        (url,) = (tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
        self._line = await self._session.ws_connect(url, max_msg_size=0)
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self._ask(f"{domain}.enable", {})

    async def detach(self) -> None:
        """Let go of it."""
        await self._line.close()
        await self._session.close()

    async def _ask(self, method: str, parameters: dict[str, Any]) -> Any:
        self._count += 1
        await self._line.send_json({"id": self._count, "method": method, "params": parameters})
        async with asyncio.timeout(ANSWER_SECONDS):
            while True:
                said = json.loads((await self._line.receive()).data)
                if said.get("id") == self._count:
                    assert "error" not in said, (method, said)
                    return said["result"]
                self._note(said["method"], said["params"])

    def _note(self, event: str, given: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(given["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(given["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled" and given["type"] in ("error", "warning", "assert"):
            self.problems.append(json.dumps(given["args"]))
        elif event == "Log.entryAdded" and given["entry"]["level"] in ("error", "warning"):
            self.problems.append(f"{given['entry']['text']} {given['entry'].get('url', '')}")

    def command(self, method: str, **parameters: Any) -> Any:
        """The answer to a command of the protocol."""
        return self._loop.run_until_complete(self._ask(method, parameters))

    def look(self, width: int, height: int, *, dark: bool = False, scripts: bool = True) -> None:
        """How big the window is, whether the reader likes it dark, and whether scripts run."""
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                     mobile=width < 600)
        self.command("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.command("Emulation.setScriptExecutionDisabled", value=not scripts)

    def open(self, url: str) -> None:
        """Go there, and wait until it has loaded."""
        self.command("Page.navigate", url=url)
        self.until("location.href !== 'about:blank' && document.readyState === 'complete'", f"{url} to load")

    def run(self, script: str) -> Any:
        """The value of an expression in the page. AssertionError if it throws."""
        done = self.command("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, (script, done)
        return done["result"].get("value")

    def until(self, script: str, what: str, seconds: float = 30.0) -> Any:
        """Wait until an expression is true; its value."""
        return wait_until(lambda: self.run(script), seconds, f"{what}; problems: {self.problems}")

    def text(self, selector: str = "body") -> str:
        """What a person reads there."""
        found: str = self.run(f"document.querySelector({json.dumps(selector)}).innerText")
        return found

    def click(self, selector: str) -> None:
        """With the mouse, in the middle of it."""
        x, y = self.run("(e => { e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect(); return "
                        f"[r.x + r.width / 2, r.y + r.height / 2]; }})(document.querySelector({json.dumps(selector)}))")
        for kind in ("mousePressed", "mouseReleased"):
            self.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def key(self, name: str, code: int = 0, *, words: str = "") -> None:
        """Press a key and release it, as `name` of KeyboardEvent.key; `words` are typed as they are."""
        if words:
            self.command("Input.insertText", text=words)
            return
        more = {"text": "\r"} if name == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.command("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code,
                         **(more if kind == "keyDown" else {}))

    def picture(self, name: str, *, whole: bool = True) -> Path:
        """The whole page, or what is in the window, as a PNG in the folder of the test."""
        shot = self.command("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path = self._folder / f"{name}.png"
        path.write_bytes(base64.b64decode(shot["data"]))
        return path


@contextlib.contextmanager
def browsing(folder: Path) -> Iterator[Page]:
    """A tab of a browser of its own. The test is skipped where none can be had, and fails with CI=true."""
    program, env = servers.needed(find)
    profile = Path(tempfile.mkdtemp(prefix="browser-", dir=folder))
    loop = asyncio.new_event_loop()
    with (profile / "log").open("wb") as log:
        process = subprocess.Popen([str(program), *FLAGS, f"--user-data-dir={profile}", "about:blank"], stdin=log,
                                   stdout=log, stderr=log, env={**os.environ, "HOME": str(profile), **env})
    try:
        port = wait_until(lambda: _port(process, profile), 60, f"the browser to start, see {profile}/log")
        page = Page(folder, loop)
        loop.run_until_complete(page.attach(port))
        try:
            yield page
        finally:
            loop.run_until_complete(page.detach())
    finally:
        end(process)
        loop.close()


def _port(process: "subprocess.Popen[bytes]", profile: Path) -> int:
    """Where it listens, once it does."""
    assert process.poll() is None, (profile / "log").read_text(errors="replace")[-2000:]
    try:
        return int((profile / "DevToolsActivePort").read_text().split()[0])
    except (FileNotFoundError, IndexError):
        return 0
