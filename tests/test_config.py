"""The configuration as its users meet it: what is accepted, what is refused and how, who wins."""

import os
import re
from dataclasses import replace
from pathlib import Path
from signal import SIGUSR1, SIGUSR2

import pytest

from sidecar.config import Overrides, Settings, default_storage, describe, environment, load, rows
from sidecar.config_settings import Web
from sidecar.config_values import duration, duration_text, size_text
from sidecar.errors import ConfigError
from sidecar.guard.wire import Channel
from sidecar.probes.endpoint_figures import Endpoint
from sidecar.thresholds import resolve, size

HERE = Path(__file__).parent
CASES = HERE / "config"
GUIDE = HERE.parent / "docs" / "configuration.md"
ENV = {"HOME": "/srv/u"}
MIB = 1 << 20
TWO = """
targets:
  - name: a
    match: {pid: 11}
    memory: {main: 500MiB, critical: 600MiB}
  - name: b
    match: {pid: 12}
    cleanup: [{signal: SIGUSR1}]
"""
ONE = """
targets:
  - name: api
    match: {cmdline: uvicorn}
    memory: {main: 500MiB, critical: 600MiB}
"""


def written(tmp_path: Path, text: str) -> Path:
    """A configuration file with this text."""
    file = tmp_path / "sidecar.yml"
    file.write_text(text, encoding="utf-8")
    return file


def told(file: Path | None, env: dict[str, str], overrides: Overrides) -> str:
    """The message of the error that this configuration must lead to."""
    with pytest.raises(ConfigError) as caught:
        load(file, env, overrides)
    assert "docs/configuration.md" in caught.value.help
    return str(caught.value)


def lines(settings: Settings, at: int = 0) -> tuple[float, ...]:
    """The thresholds of a target in MiB, where it has no limit."""
    return tuple(line.size_bytes / MIB for line in resolve(None, settings.targets[at].memory).lines.values())


@pytest.mark.parametrize("case", sorted(CASES.glob("*.good.yml")), ids=lambda case: case.name)
def test_good_files_say_what_will_be_used(case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each good file loads, and its description is the text beside it: every setting with its origin."""
    monkeypatch.chdir(CASES)
    found = describe(load(Path(case.name), ENV, Overrides()))
    assert (found + "\n").replace(str(CASES), "HERE") == case.with_suffix(".txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("case", sorted(CASES.glob("*.bad.yml")), ids=lambda case: case.name)
def test_bad_files_name_every_mistake(case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each bad file is refused with all its mistakes at once, as file:line:col: where: what."""
    monkeypatch.chdir(CASES)
    found = told(Path(case.name), ENV, Overrides())
    assert (found + "\n").replace(str(CASES), "HERE") == case.with_suffix(".txt").read_text(encoding="utf-8")


def test_secrets_and_certificates_of_alertmanagers_are_checked_and_not_shown(tmp_path: Path) -> None:
    """A file that others can read is a mistake where its key stands; a good one is named, never its content."""
    password = tmp_path / "password"
    password.write_text("s3cret, with blanks and üml\n")
    file = written(tmp_path, ONE + "alertmanagers:\n  - url: https://h\n    basic_auth:\n"
                                   "      {username: ann, password_file: password}\n")
    password.chmod(0o644)
    found = told(file, ENV, Overrides())
    assert found.startswith(f"{file}:")
    assert "alertmanagers[0].basic_auth.password_file: " in found
    assert "chmod 600" in found
    password.chmod(0o600)
    shown = describe(load(file, ENV, Overrides()))
    assert f"https://h (user ann, password from {password})" in shown
    assert "s3cret" not in shown + repr(load(file, ENV, Overrides()))


def test_a_pid_is_enough() -> None:
    """With only --pid everything has a default."""
    settings = load(None, ENV, Overrides(pid=1234))
    assert [(target.name, str(target.match)) for target in settings.targets] == [("rag", "pid 1234")]
    assert settings.rules is None
    assert settings.mode(settings.targets[0]) == "observe"
    assert (str(settings.web.listen), settings.instance, settings.job) == ("127.0.0.1:11611",) * 2 + ("rag-sidecar",)
    assert str(settings.storage) == "/srv/u/.local/state/rag-sidecar"
    assert settings.actions.kill_switch == "/srv/u/.local/state/rag-sidecar/kill-switch"
    assert settings.alertmanagers == ()


def test_a_pattern_or_a_command_is_enough() -> None:
    """--match and -- COMMAND name the process too, and --target names the target."""
    found = load(None, ENV, Overrides(match="uvicorn .*app", target="x")).targets[0]
    assert (found.name, str(found.match)) == ("x", "cmdline 'uvicorn .*app'")
    child = load(None, ENV, Overrides(child=True, target="x")).targets[0]
    assert (child.name, str(child.match)) == ("x", "the command after --")


def test_a_url_is_enough() -> None:
    """--url names a target without a process: what counts is what its endpoint tells, never a process's memory."""
    target = load(None, ENV, Overrides(url="http://127.0.0.1:5000/memory?key=s3cret")).targets[0]
    assert (target.name, str(target.match)) == ("rag", "url http://127.0.0.1:5000/memory")
    assert target.memory.basis == "endpoint"
    assert target.asked() == Endpoint("http://127.0.0.1:5000/memory?key=s3cret")
    assert load(None, ENV, Overrides(pid=1)).targets[0].asked() is None


def test_endpoints_are_asked_as_the_file_says() -> None:
    """The URL of `match` or its own, the unit in bytes, everything else as it is written."""
    api, page, far, alone = (target.asked() for target in load(CASES / "endpoint.good.yml", ENV, Overrides()).targets)
    assert api == Endpoint("http://127.0.0.1:8000/memory?key=s3cret", "rag.memory_mb", MIB, "status", ("ok", "high"),
                           10.0, 0.5, (("Authorization", "Bearer s3cret"),))
    assert page == Endpoint("http://127.0.0.1:8000/metrics", 'process_resident_memory_bytes{kind="main"}')
    assert far == Endpoint("https://rag.example/memory?key=s3cret", "memory.used", timeout_seconds=5.0)
    assert alone == Endpoint("http://127.0.0.1:5000/memory")


def test_the_command_line_can_take_the_process_away(tmp_path: Path) -> None:
    """--url in the place of the file's match: the rest of the target stays, where it still makes sense."""
    file = written(tmp_path, ONE.replace("main", "basis: anon, main") + "    endpoint: {used: memory_mb, unit: MB}\n")
    assert "targets[0].memory.basis: anon is not known of a target" in told(file, ENV, Overrides(url="http://h/m"))
    target = load(file, ENV, Overrides(url="http://h/m", memory_basis="endpoint")).targets[0]
    assert target.asked() == Endpoint("http://h/m", "memory_mb", MIB)


def test_the_command_line_beats_the_environment_beats_the_file(tmp_path: Path) -> None:
    """Later wins, each level on its own, and every setting says who set it."""
    file = written(tmp_path, ONE + "web: {listen: '127.0.0.1:1'}\nstorage: {path: state}\n"
                                   "alertmanagers: ['http://file:9093']\nactions: {mode: observe}\n")
    plain = load(file, ENV, Overrides())
    assert lines(plain) == (400, 500, 600)
    assert plain.storage == tmp_path / "state"
    both = load(file, {**ENV, "MEMORY_THRESHOLD_MB": "550"}, Overrides())
    assert lines(both) == (440, 550, 600)
    settings = load(file, {**ENV, "MEMORY_THRESHOLD_MB": "550", "MEMORY_CRITICAL_THRESHOLD_MB": "700"}, Overrides(
        pid=9, memory_critical="1GiB", memory_basis="rss", web_listen=":2", storage_path="/s", mode="dry_run",
        alertmanagers=["http://line:9093"], log_level="debug", log_format="json",
        features=["promql-delayed-name-removal,promql-experimental-functions", "promql-delayed-name-removal"]))
    assert lines(settings) == (440, 550, 1024)
    assert [each.url for each in settings.alertmanagers] == ["http://line:9093"]
    assert settings.features == ("promql-delayed-name-removal", "promql-experimental-functions")
    assert (settings.actions.mode, settings.log.level, settings.log.format) == ("dry_run", "debug", "json")
    told_by = settings.origins
    assert {key: told_by[key] for key in (
        "targets[0].name", "targets[0].match", "targets[0].memory.main", "targets[0].memory.critical",
        "targets[0].memory.basis", "web.listen", "storage.path", "actions.mode", "alertmanagers", "features",
        "log.level")} == {
        "targets[0].name": f"{file}:3", "targets[0].match": "--pid", "targets[0].memory.main": "MEMORY_THRESHOLD_MB",
        "targets[0].memory.critical": "--memory.critical", "targets[0].memory.basis": "--memory.basis",
        "web.listen": "--web.listen-address", "storage.path": "--storage.path", "actions.mode": "--mode",
        "alertmanagers": "--alertmanager.url", "features": "--enable-feature", "log.level": "--log.level"}
    assert re.search(r"targets\[0\]\.memory\.main +550MiB +MEMORY_THRESHOLD_MB\n", describe(settings))


def test_the_environment_is_compared_with_rss() -> None:
    """The seeds' variables are MB of 1024² bytes, of RSS; an empty one is not set."""
    env = {**ENV, "MEMORY_THRESHOLD_MB": "1000", "MEMORY_CRITICAL_THRESHOLD_MB": ""}
    found = resolve(None, load(None, env, Overrides(pid=1)).targets[0].memory)
    assert (found.main.size_bytes, found.critical.size_bytes, found.basis) == (1000 * MIB, 1200 * MIB, "rss")


def test_mistakes_everywhere_come_together(tmp_path: Path) -> None:
    """File, environment and command line are all looked at before anything is refused."""
    file = written(tmp_path, "tragets: []\n")
    found = told(file, {"MEMORY_THRESHOLD_MB": "1GB", "MEMORY_CRITICAL_THRESHOLD_MB": "-1"},
                 Overrides(pid="x", match="(", web_listen="here", mode="force", log_level="all", memory_main="1000",
                           alertmanagers=["h:9093"], features=["promql-delayed-name-removal, native-histograms"]))
    assert "'native-histograms' is no feature; known here: promql-experimental-functions, promql-delayed-" in found
    assert [line.split(": ")[:2] for line in found.splitlines()] == [
        [f"{file}:1:1", "unknown key 'tragets', did you mean targets?"],
        ["environment", "MEMORY_THRESHOLD_MB"], ["environment", "MEMORY_CRITICAL_THRESHOLD_MB"],
        *(["command line", flag] for flag in ("--pid", "--match", "--memory.main", "--web.listen-address", "--mode",
                                              "--alertmanager.url", "--enable-feature", "--log.level"))]


@pytest.mark.parametrize(("text", "overrides", "message"), [
    ("", Overrides(), "targets: there is none: give --pid N, --match REGEX, --url URL or -- COMMAND"),
    (ONE, Overrides(pid=1, url="http://h/m"), "command line: --pid --url: only one of these"),
    (ONE, Overrides(url="h/m"), "command line: --url: 'h/m' is not a URL"),
    (ONE, Overrides(url="http://a..b/m"), "command line: --url: 'http://a..b/m' is not a URL"),
    (ONE, Overrides(pid=1, child=True), "command line: --pid -- COMMAND: only one of these"),
    (TWO, Overrides(pid=1), "command line: --pid: the file has 2 targets (a, b): say which one is meant with --target"),
    (TWO, Overrides(memory_main="1GiB"), "--memory.main: the file has 2 targets (a, b)"),
    (TWO, Overrides(target="c", pid=1), "--target: no target of the file has the name 'c', known here: a, b"),
    (ONE, Overrides(target="app"), "--target: no target of the file has the name 'app', did you mean api?"),
    (ONE, Overrides(memory_main="2GiB"),
     "sidecar.yml:5:13: targets[0].memory: main 2048MiB (command line) is not below critical 600MiB (file)"),
    ("targets: [{name: a}]", Overrides(), "yml:1:11: targets[0]: 'match' is missing: no process is named for a"),
])
def test_what_does_not_fit_together_is_refused(tmp_path: Path, text: str, overrides: Overrides, message: str) -> None:
    """A command line that is ambiguous or contradicts the file is refused, saying how to resolve it."""
    assert message in told(written(tmp_path, text), ENV, overrides)


def test_the_command_line_speaks_of_one_target(tmp_path: Path) -> None:
    """--target says which target of the file the other flags are for; the others stay as they are."""
    settings = load(written(tmp_path, TWO), ENV, Overrides(target="b", pid=77, memory_main="1GiB"))
    assert [str(target.match) for target in settings.targets] == ["pid 11", "pid 77"]
    assert (lines(settings, 0)[1], lines(settings, 1)[1]) == (500, 1024)
    assert settings.origins["targets[1].memory.main"] == "--memory.main"
    assert settings.origins["targets[0].match"].endswith("sidecar.yml:4")
    assert [settings.mode(target) for target in settings.targets] == ["observe", "enforce"]


def test_a_target_without_a_match_is_the_command(tmp_path: Path) -> None:
    """A file may leave `match` out when the process is started by the guard."""
    settings = load(written(tmp_path, "targets: [{name: a, cleanup: [{signal: SIGUSR1}]}]"), ENV, Overrides(child=True))
    assert str(settings.targets[0].match) == "the command after --"
    assert settings.mode(settings.targets[0]) == "enforce"


def test_warnings_do_not_stop_anything(tmp_path: Path) -> None:
    """What is odd but usable is said in the description."""
    settings = load(written(tmp_path, TWO), {**ENV, "MEMORY_THRESHOLD_MB": "100"}, Overrides(mode="enforce"))
    assert settings.warnings == (
        "the thresholds in the environment hold for all 2 targets",
        "mode is enforce, but target a has no cleanup channel: nothing can be asked of it "
        "unless there is an agent in its process")
    assert all(f"\nwarning: {warning}" in describe(settings) for warning in settings.warnings)


def test_alerts_that_go_to_nobody_are_noted_once(tmp_path: Path) -> None:
    """Who checks a configuration without an Alertmanager learns that nobody is told; it is no warning."""
    alone = load(written(tmp_path, ONE), ENV, Overrides())
    told = load(written(tmp_path, ONE + 'alertmanagers: ["http://127.0.0.1:9093"]\n'), ENV, Overrides())

    assert describe(alone).count("are sent to nobody") == 1
    assert "are sent to nobody" not in describe(told)
    assert alone.warnings == told.warnings == ()


def test_channels_are_what_the_guard_delivers(tmp_path: Path) -> None:
    """Each cleanup has its channels in the order of the file; a signal map leaves out what it does not name."""
    target = load(written(tmp_path, """
targets:
  - name: a
    match: {pid: 1}
    cleanup:
      - http: {url: "http://127.0.0.1:5/c", timeout: 2s, headers: {X-Token: abc}}
      - signal: {standard: SIGUSR1, aggressive: SIGUSR2}
"""), ENV, Overrides()).targets[0]
    post = Channel("http", url="http://127.0.0.1:5/c", headers=(("X-Token", "abc"),), timeout_seconds=2.0)
    assert target.channels("light") == (post,)
    assert target.channels("standard") == (post, Channel("signal", signal=SIGUSR1))
    assert target.channels("aggressive") == (post, Channel("signal", signal=SIGUSR2))


def test_secrets_are_not_shown() -> None:
    """Neither the description nor the repr of the settings holds the value of a header or a password in an URL."""
    settings = load(CASES / "full.good.yml", ENV, Overrides())
    assert settings.targets[0].channels("light")[0].headers == (("Authorization", "Bearer s3cret"),)
    for shown in (settings, load(CASES / "endpoint.good.yml", ENV, Overrides())):
        assert "s3cret" not in describe(shown)
        assert "s3cret" not in repr(shown.targets)
        assert "s3cret" not in repr([target.asked() for target in shown.targets])
    assert all("s3cret" not in (CASES / name).read_text(encoding="utf-8")
               for name in ("channels.bad.txt", "endpoint.bad.txt"))


def kept(tmp_path: Path, content: str, mode: int = 0o600) -> Path:
    """A file that holds a secret."""
    file = tmp_path / "token"
    file.write_text(content, encoding="ascii")
    file.chmod(mode)
    return file


WITH_TOKENS = ONE + """
    cleanup: [{http: {url: "http://127.0.0.1:5/c", token_file: token}}]
web: {token_file: token}
"""


@pytest.mark.parametrize("mode", [0o600, 0o400, *([0o640] if os.geteuid() == 0 else [])])
def test_tokens_come_from_files(tmp_path: Path, mode: int) -> None:
    """A token in a file that only its owner reads is sent and asked for, and is shown nowhere."""
    kept(tmp_path, "  s3cret-s3cret-s3cret\n", mode)
    settings = load(written(tmp_path, WITH_TOKENS), ENV, Overrides())
    assert settings.web == Web(token_file=tmp_path / "token", token="s3cret-s3cret-s3cret")  # noqa: S106 - of a test
    (post,) = settings.targets[0].channels("light")
    assert post.headers == (("Authorization", "Bearer s3cret-s3cret-s3cret"),)
    assert "s3cret" not in describe(settings) + repr(settings.web) + repr(settings.targets)
    assert {key: value for key, value, _ in rows(settings)}["web.token_file"] == f"{tmp_path}/token"


@pytest.mark.parametrize(("content", "mode", "message"), [
    ("s3cret-s3cret-s3cret", 0o644, "has mode 0644, others could read it or write to it: use `chmod 600`"),
    ("s3cret-s3cret-s3cret", 0o660, "has mode 0660"),
    ("s3cret-s3cret", 0o600, "holds no token: it must be 16 to 4096 printable ASCII characters"),
    ("s3cret s3cret s3cret", 0o600, "holds no token"),
    ("s3cret-s3cret\r\nX: s3cret-s3cret", 0o600, "holds no token"),
    ("s3cret" * 1000, 0o600, "holds no token"),
    ("", 0o600, "holds no token"),
])
def test_tokens_that_are_none_are_refused(tmp_path: Path, content: str, mode: int, message: str) -> None:
    """A token that others may read, or that nobody could send, is refused where it is named, and not shown."""
    kept(tmp_path, content, mode)
    found = told(written(tmp_path, WITH_TOKENS), ENV, Overrides()).splitlines()
    assert [line.split(": ")[:2] for line in found] == [
        [f"{tmp_path}/sidecar.yml:7:64", "targets[0].cleanup[0].http.token_file"],
        [f"{tmp_path}/sidecar.yml:8:19", "web.token_file"]]
    assert all(f"{tmp_path}/token {message}" in line and "s3cret" not in line for line in found)


def test_a_token_is_no_pipe_and_no_strangers_file(tmp_path: Path) -> None:
    """A pipe keeps nobody waiting, and a file of another user is not believed."""
    os.mkfifo(tmp_path / "token", 0o600)
    assert "token is not a file" in told(written(tmp_path, WITH_TOKENS), ENV, Overrides())
    (tmp_path / "token").unlink()
    if os.geteuid() == 0:
        os.chown(kept(tmp_path, "s3cret-s3cret-s3cret"), 65534, -1)
        assert "token belongs to user 65534" in told(written(tmp_path, WITH_TOKENS), ENV, Overrides())


def test_programs_are_run_as_they_stand(tmp_path: Path) -> None:
    """One program for every cleanup, or one for each; its words are passed on one by one, and $ and ; mean nothing."""
    target, other = load(written(tmp_path, """
targets:
  - {name: a, match: {pid: 1}, cleanup: [{exec: {command: [/bin/echo, "$HOME; true", ""]}}]}
  - {name: b, match: {pid: 2}, cleanup: [{exec: {light: [/bin/echo, a], aggressive: [/bin/sh], timeout: 5m}}]}
actions: {allow_exec: [/bin/echo, /bin/sh]}
"""), ENV, Overrides()).targets
    assert target.channels("standard") == (
        Channel("exec", argv=("/bin/echo", "$HOME; true", ""), timeout_seconds=60.0),)
    assert [other.channels(cleanup) for cleanup in ("light", "standard", "aggressive")] == [
        (Channel("exec", argv=("/bin/echo", "a"), timeout_seconds=300.0),), (),
        (Channel("exec", argv=("/bin/sh",), timeout_seconds=300.0),)]


def test_periodic_cleanups(tmp_path: Path) -> None:
    """GC_INTERVAL_SECONDS says how often a light cleanup is asked for: it beats the file, and 0 is never."""
    file = written(tmp_path, ONE + "actions: {every: {light: 1m, aggressive: 1h}}\n")

    def every(seconds: str) -> dict[str, float]:
        return dict(load(file, {**ENV, "GC_INTERVAL_SECONDS": seconds}, Overrides()).actions.every_seconds)

    assert every("") == {"light": 60.0, "aggressive": 3600.0}
    assert every("180") == {"light": 180.0, "aggressive": 3600.0}
    assert every("0") == {"aggressive": 3600.0}
    settings = load(file, {**ENV, "GC_INTERVAL_SECONDS": "90.5"}, Overrides())
    assert re.search(r"actions\.every\.light +1m30s500ms +GC_INTERVAL_SECONDS\n", describe(settings))
    assert load(None, ENV, Overrides(pid=1)).actions.every_seconds == {}
    for wrong in ("3m", "-1", "5", "1e3", "nan", "100000"):
        assert f"GC_INTERVAL_SECONDS: '{wrong}' is not a number of seconds, 0 (never) or from 10" in told(
            None, {**ENV, "GC_INTERVAL_SECONDS": wrong}, Overrides(pid=1))


def test_what_is_set_about_acting_reaches_the_policy() -> None:
    """Budgets, patience, learning and the hourly limit are those of the file."""
    actions = load(CASES / "full.good.yml", ENV, Overrides()).actions
    assert dict(actions.budget_per_hour) == {"light": 60, "standard": 6, "aggressive": 1}
    assert dict(actions.escalate_after) == {"light": 2, "standard": 2, "aggressive": 3}
    assert (actions.max_per_hour, actions.exit_for_seconds, actions.strikes) == (5, 30.0, 5)
    assert (actions.skip_seconds, actions.skip_backoff, actions.skip_max_seconds) == (600.0, 1.5, 21600.0)
    assert dict(actions.every_seconds) == {"light": 180.0}


@pytest.mark.parametrize(("content", "message"), [
    (b"targets: \xff\n", "is not UTF-8 text: byte 9 is 0xff"),
    (b"a: \x01", "not YAML: unacceptable character"),
    (b"[" * 100_000, "is nested too deeply"),
    (b"#" * 300_000, "is larger than 262144 characters"),
    (b"a: 1\n---\nb: 2\n", "not YAML: expected a single document"),
    (b"targets: &x [*x]", "targets[0]: expected a mapping (key: value), not a list"),
    (b"x: &a [" + b"{name: a, match: {pid: 1}}," * 400 + b"]\ntargets: *a", "unknown key 'x'"),
])
def test_hostile_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """Bytes that are no configuration end in one clear line, not in a traceback or a hanging process."""
    file = tmp_path / "sidecar.yml"
    file.write_bytes(content)
    assert message in told(file, ENV, Overrides())


def test_a_small_file_cannot_become_a_large_one(tmp_path: Path) -> None:
    """Aliases that multiply are cut off at a number of values."""
    ways = ", ".join(["{signal: SIGUSR1}"] * 1000)
    text = f"targets:\n- {{name: a0, match: {{pid: 1}}, cleanup: &c [{ways}]}}\n" + "".join(
        f"- {{name: a{at}, match: {{pid: 1}}, cleanup: *c}}\n" for at in range(1, 200))
    assert "too many values" in told(written(tmp_path, text), ENV, Overrides())


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A missing file and a folder are told apart from a bad file."""
    assert "none.yml: cannot be read: No such file or directory" in told(tmp_path / "none.yml", ENV, Overrides(pid=1))
    assert "cannot be read: Is a directory" in told(tmp_path, ENV, Overrides(pid=1))


def test_relative_paths_count_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """rules, pidfile, kill_switch and storage.path are found wherever the program was started."""
    (tmp_path / "b [x]").mkdir()
    for name in ("2.yml", "1.yml"):
        (tmp_path / "b [x]" / name).touch()
    file = tmp_path / "b [x]" / "sidecar.yml"
    file.write_text("targets: [{name: a, match: {pidfile: rag.pid}}]\nrules: [1.yml, '?.yml']\n"
                    "actions: {kill_switch: stop}\nstorage: {path: state}\n", encoding="utf-8")
    monkeypatch.chdir("/")
    settings = load(file, ENV, Overrides())
    here = file.parent
    assert settings.rules == (here / "1.yml", here / "2.yml")
    assert str(settings.targets[0].match) == f"pidfile {here}/rag.pid"
    assert (settings.actions.kill_switch, settings.storage) == (f"{here}/stop", here / "state")


def test_no_rules_at_all_can_be_said(tmp_path: Path) -> None:
    """An empty list means no rules; only an absent key means the shipped ones."""
    assert load(written(tmp_path, ONE + "rules: []\n"), ENV, Overrides()).rules == ()


def test_where_state_is_kept_without_being_told() -> None:
    """XDG_STATE_HOME, else the home folder; a relative XDG_STATE_HOME does not count; neither is a clear error."""
    assert default_storage({"XDG_STATE_HOME": "/x", **ENV}) == Path("/x/rag-sidecar")
    assert default_storage({"XDG_STATE_HOME": "x", **ENV}) == Path("/srv/u/.local/state/rag-sidecar")
    assert "neither XDG_STATE_HOME nor HOME" in told(None, {}, Overrides(pid=1))
    assert load(None, {}, Overrides(pid=1, storage_path="/s")).storage == Path("/s")
    assert environment() == os.environ


@pytest.mark.parametrize(("text", "expected"), [
    ("1B", 1), ("1KiB", 1024), ("1KB", 1024), ("1.5 GiB", 3 << 29), ("1000MB", 1000 * MIB), ("2TB", 2 << 40),
])
def test_sizes_are_powers_of_1024(text: str, expected: int) -> None:
    """KB, MB and GB mean what KiB, MiB and GiB mean; what is shown reads back as the same size."""
    assert size(text) == expected
    assert expected < 1024 or size(size_text(expected)) == expected


@pytest.mark.parametrize(("text", "seconds"), [
    ("0s", 0), ("500ms", 0.5), ("1m30s", 90), ("2h", 7200), ("1d", 86400), ("1h1ms", 3600.001),
])
def test_durations_are_those_of_prometheus(text: str, seconds: float) -> None:
    """Durations are written as in a rule file; what is shown reads back as the same duration."""
    assert duration(text) == seconds
    assert duration(duration_text(seconds)) == seconds


def blocks() -> list[str]:
    """The YAML blocks of the guide."""
    return re.findall(r"^```yaml\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("at", range(len(blocks())))
def test_the_guide_loads(at: int, tmp_path: Path) -> None:
    """Every YAML block of docs/configuration.md is a file that works."""
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "own.yml").touch()
    assert load(written(tmp_path, blocks()[at]), ENV, Overrides()).targets


def test_the_guide_shows_every_key_with_its_default(tmp_path: Path) -> None:
    """The first block of the guide holds every key that there is, and where it shows a default it is the default."""
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "own.yml").touch()
    shown = load(written(tmp_path, blocks()[0]), ENV, Overrides())
    plain = load(None, ENV, Overrides(pid=1))
    missing = {key for key, _, origin in rows(shown) if origin == "default"}
    assert missing == {"log.level", "log.format", "web.token_file", "web.config_file"}
    assert "# token_file: /run/secrets/rag-sidecar" in blocks()[0]  # a file that is not there would be a mistake
    assert replace(shown.actions, mode=None, kill_switch="") == replace(plain.actions, kill_switch="")
    assert (shown.web.listen, shown.job, shown.evaluation_interval_seconds) == (
        plain.web.listen, plain.job, plain.evaluation_interval_seconds)


