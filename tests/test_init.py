"""`rag-sidecar init`: what it writes is good as it is, whatever the user's names, and nothing of theirs is lost."""

import json
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import test_compose
import yaml
from servers import amtool, promtool

from sidecar.cli import main
from sidecar.config import Overrides, load
from sidecar.config_settings import Settings
from sidecar.discovery.match import ByCmdline

Init = Callable[..., str]


@pytest.fixture
def init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Init:
    """`rag-sidecar init ARGUMENTS` in an empty folder: what it prints. A failure shows what it said."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, code: int = 0) -> str:
        found = main(["init", *arguments])
        said = capsys.readouterr()
        assert (found, bool(said.err)) == (code, code != 0), said.err
        return said.err if code else said.out

    return run


def settings(file: str = "sidecar.yml", env: Mapping[str, str] | None = None) -> Settings:
    """What a sidecar would use of the file."""
    return load(Path(file), env or {"HOME": "/home/somebody"}, Overrides())


# --- the configuration


def test_configuration_is_good_as_it_is(init: Init) -> None:
    """The file that is written without a flag is accepted, and lets nothing be done to anybody."""
    said = init("config")
    (target,) = settings().targets

    assert re.findall(r"--config.file (\S+)", said) == ["sidecar.yml", "sidecar.yml"]
    assert (target.name, target.cleanup) == ("rag", ())


def test_what_is_commented_out_is_good_too(init: Init) -> None:
    """Each line that is offered in a comment may be uncommented, all of them at once as well."""
    init("config")
    file = Path("sidecar.yml")
    lines = file.read_text().splitlines()
    offered = [line for line in lines if re.match(r" *# +(- )?\w+: \S|# \w+: |    # \w+:$", line)]
    file.write_text("\n".join(re.sub("# ", "", line, count=1) if line in offered else line for line in lines))
    found = settings()

    assert len(offered) == 8
    assert [way.KEY for way in found.targets[0].cleanup] == ["agent", "http", "signal"]
    assert (found.actions.mode, len(found.alertmanagers)) == ("dry_run", 1)
    assert found.targets[0].memory.main != settings_of_nobody().targets[0].memory.main


def settings_of_nobody() -> Settings:
    """The defaults."""
    return load(None, {"HOME": "/home/somebody"}, Overrides(match="x"))


@pytest.mark.parametrize("regex", [r"uvicorn rag\.app", "it's --name=\"a b\"", r"^\S+python3? -m app: #1 {x} [y], & *z",
                                   "größe|ß", "- yes", "{{ .x }}", "%s $HOME"])
@pytest.mark.parametrize("name", ["null", "1.0", "-", "a.b_c-d", "on"])
def test_names_arrive_as_they_were_given(init: Init, name: str, regex: str) -> None:
    """Whatever means something in YAML means nothing in a name or in a regular expression."""
    init("config", f"--target={name}", "--match", regex)
    (target,) = settings().targets

    assert target.name == name
    assert isinstance(target.match, ByCmdline)
    assert target.match.pattern.pattern == regex


def test_lines_and_alertmanagers_arrive(init: Init) -> None:
    """Memory lines and Alertmanagers that are named on the command line stand in the file."""
    init("config", "--memory.main", "1.5GiB", "--memory.critical", "90%", "--alertmanager.url", "http://a:9093/x",
         "--alertmanager.url", "https://b")
    found = settings()

    assert "memory: {main: '1.5GiB', critical: '90%'}" in Path("sidecar.yml").read_text()
    assert [str(each.url) for each in found.alertmanagers] == ["http://a:9093/x", "https://b"]


@pytest.mark.parametrize(("arguments", "said"), [
    (["--target", "a b", "--match", "("], ["--target: 'a b' is not a name", "--match: '(' is not a regular"]),
    (["--memory.main", "2GiB", "--memory.critical", "1GiB"], ["is not below critical"]),
    (["--match", "a\nb"], ["cannot be written in one line"]),
    (["--match", ".*"], ["matches every process"]),
    (["--alertmanager.url", "ftp://a"], ["is not a URL"]),
])
def test_mistakes_are_told_and_nothing_is_written(init: Init, arguments: list[str], said: list[str]) -> None:
    """What no sidecar would take is refused with every mistake, before there is a file."""
    refused = init("config", *arguments, code=1)

    assert all(each in refused for each in said), refused
    assert os.listdir() == []


# --- what is there already


def test_changes_are_not_overwritten_unasked(init: Init) -> None:
    """Who has changed the file is told where it differs, but not with what, as there may be secrets; --force replaces
    it, and its mode stays."""
    init("config")
    file = Path("sidecar.yml")
    written = file.read_text()
    file.write_text(written.replace("'rag'", "'api'") + "# password: hunter2\n")
    file.chmod(0o600)
    mine = file.read_text()
    refused = init("config", code=1)

    assert "there already, and different: line 4, line 20\n" in refused
    assert "hunter2" not in refused
    assert file.read_text() == mine
    assert "sidecar.yml: overwritten" in init("config", "--force")
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == (written, 0o600)
    assert "sidecar.yml: there already" in init("config")


def test_folder_is_made_and_named(init: Init) -> None:
    """DIR is made where it is missing; what to do next names the file where it is, fit for a shell."""
    said = init("config", "a b/c")

    assert "'a b/c/sidecar.yml'" in said
    assert Path("a b/c/sidecar.yml").is_file()


def test_what_is_no_file_is_left_alone(init: Init) -> None:
    """A pipe or a folder of that name is neither waited for nor replaced."""
    os.mkfifo("sidecar.yml")
    assert "is no file" in init("config", "--force", code=1)
    os.mkdir("rag-sidecar.service")
    assert "is no file" in init("systemd", "--force", code=1)


@pytest.mark.parametrize("what", ["config", "systemd"])
def test_print_writes_nothing(init: Init, what: str) -> None:
    """--print shows, byte by byte, what would be written."""
    shown = init(what, "--print")
    assert os.listdir() == []

    init(what)
    (file,) = Path().iterdir()
    assert file.read_text() == shown


def test_json_for_programs(init: Init) -> None:
    """-o json names each file, what was done with it, and the two steps that follow; with --print the content."""
    (shown,) = json.loads(init("config", "here", "--print", "-o", "json"))
    said: dict[str, Any] = json.loads(init("config", "here", "-o", "json"))

    assert said["files"] == [{"path": "here/sidecar.yml", "done": "written"}]
    assert len(said["next"]) == 2
    assert shown == {"path": "here/sidecar.yml", "content": Path("here/sidecar.yml").read_text()}


# --- the unit


def unit() -> dict[str, list[str]]:
    """Each setting of the unit with all its values."""
    found: dict[str, list[str]] = {}
    for line in Path("rag-sidecar.service").read_text().splitlines():
        if re.match(r"[A-Z]\w+=", line):
            key, value = line.split("=", 1)
            found.setdefault(key, []).append(value)
    return found


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze")
def test_unit_is_one_that_systemd_takes(init: Init) -> None:
    """systemd finds no mistake in the unit: no unknown key, no value that it does not understand."""
    init("systemd", "--command", "/bin/true", "--user", "root:daemon", "--service", "my-rag@1")
    done = subprocess.run(["systemd-analyze", "verify", "--recursive-errors=no", "./rag-sidecar.service"],
                          capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_unit_has_the_names_of_the_user(init: Init) -> None:
    """User, group, service, program and configuration stand where systemd looks for them."""
    init("systemd", "--user", "www-data:adm", "--service", "api", "--command", "/opt/x/bin/rag-sidecar",
         "--config.file", "/srv/sidecar.yml", "--target", "api")
    found = unit()

    assert (found["User"], found["Group"]) == (["www-data"], ["adm"])
    assert found["After"] == ["network.target api.service"]
    assert found["ExecStart"] == [
        "/opt/x/bin/rag-sidecar run --config.file /srv/sidecar.yml --storage.path /var/lib/rag-sidecar"]
    assert found["ExecReload"][0].startswith("/opt/x/bin/rag-sidecar reload ")
    assert found["Description"] == ["rag-sidecar, which guards the memory of api"]


def test_unit_runs_the_command_that_wrote_it(init: Init) -> None:
    """Without --command the unit names the program that is there, so that it works where it was written."""
    init("systemd")
    words = unit()["ExecStart"][0].split(" run ")[0].split()
    done = subprocess.run([*words, "--version"], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.startswith("rag-sidecar ")


@pytest.mark.parametrize(("flag", "value"), [
    ("--user", "a b"), ("--user", "rag\nExecStartPre=/bin/sh"), ("--user", "rag:"), ("--user", "%i"), ("--user", "-x"),
    ("--service", "a b.service"), ("--service", "${x}"), ("--command", "rag-sidecar"), ("--command", "/a b"),
    ("--command", "/a%b"), ("--config.file", "sidecar.yml"), ("--config.file", "/etc/$x.yml"), ("--target", "%h"),
])
def test_names_that_mean_something_to_systemd_are_refused(init: Init, flag: str, value: str) -> None:
    """Spaces, line ends and specifiers would change what the unit says: they are refused, and nothing is written."""
    init("systemd", f"{flag}={value}", code=1)

    assert os.listdir() == []


# --- beside a Compose file


def renamed(value: Any, name: str, new: str) -> Any:
    """A document with another name for a service, wherever that is a whole key, a whole value, or behind `service:`."""
    if isinstance(value, dict):
        return {renamed(key, name, new): renamed(each, name, new) for key, each in value.items()}
    if isinstance(value, list):
        return [renamed(each, name, new) for each in value]
    return {name: new, f"service:{name}": f"service:{new}"}.get(value, value) if isinstance(value, str) else value


@pytest.mark.parametrize(("flags", "file"), [((), "sidecar-only.yml"), (("--holder",), "sidecar-only-holder.yml")])
@pytest.mark.parametrize("service", ["api", "my.rag-app_2"])
def test_override_is_the_one_of_the_repository(init: Init, flags: tuple[str, ...], file: str, service: str) -> None:
    """Beside a service of any name stands what is tested in the repository's own Compose files, word by word."""
    init("compose", "--service", service, "--image", "example.org/rag-sidecar:9", *flags)
    committed = yaml.safe_load((test_compose.COMPOSE / file).read_text())
    for each in committed["services"].values():
        if "image" in each:
            each["image"] = "example.org/rag-sidecar:9"

    assert yaml.safe_load(Path(file).read_text()) == renamed(committed, "rag", service)
    assert sorted(path.name for path in Path().iterdir()) == ["rag-sidecar", file]


@pytest.mark.parametrize("flags", [(), ("--holder",)])
def test_another_user_keeps_the_state_in_a_folder_of_his(init: Init, flags: tuple[str, ...]) -> None:
    """A new volume belongs to the image's user; whoever else the sidecar runs as is told to make a folder."""
    os.mkdir("stack")
    Path("stack/docker-compose.yml").touch()
    said = init("compose", "stack", "--user", "1000:1001", *flags)
    (path,) = Path("stack").glob("sidecar*.yml")
    file = yaml.safe_load(path.read_text())
    own = {name: service for name, service in file["services"].items() if "image" in service}

    assert {service["user"] for service in own.values()} == {"1000:1001"}
    assert "./rag-sidecar-state:/var/lib/rag-sidecar" in own["rag-sidecar"]["volumes"]
    assert "volumes" not in file
    assert "install -d -o 1000 -g 1001 -m 700 stack/rag-sidecar-state " in said
    assert f"docker compose -f stack/docker-compose.yml -f {path} up -d" in said


@pytest.mark.parametrize("flags", [(), ("--holder",)])
def test_override_keeps_the_rules_of_the_stack(init: Init, flags: tuple[str, ...]) -> None:
    """No capability, one user, a pinned image of this version, nothing published beyond loopback; and the configuration
    that it mounts is there, good, and such that the published port is answered at."""
    init("compose", "--service", "api", *flags)
    (path,) = Path().glob("*.yml")
    for name, service in test_compose.services(path).items():
        test_compose.test_service_has_no_more_than_it_needs(path, name, service)
        test_compose.test_image_is_pinned_and_tells_its_health(path, name, service)
        test_compose.test_nothing_is_published_beyond_loopback(path, name, service)
    test_compose.test_who_shares_a_pid_namespace_follows_it(path)
    found = settings("rag-sidecar/sidecar.yml")

    assert (str(found.web.listen), found.web.hosts, found.instance) == (":11611", ("rag-sidecar",), "rag-sidecar:11611")


@pytest.mark.parametrize("arguments", [
    ("--service", "a b"), ("--service", "on"), ("--service", "1"), ("--service", "rag-sidecar"), ("--service", "a: b"),
    ("--service", "api\n"), ("--user", "rag"), ("--user", "0:0\n"), ("--image", "a b"), ("--image", "x\n- y"),
])
def test_names_that_compose_would_misread_are_refused(init: Init, arguments: tuple[str, str]) -> None:
    """A name that YAML takes for something else, or that is the sidecar's own, is refused; nothing is written."""
    init("compose", "=".join(arguments), code=1)

    assert os.listdir() == []


# --- beside it


def test_prometheus_and_alertmanager_take_what_is_written(init: Init) -> None:
    """promtool and amtool accept the files where they lie, rules included, with the user's own addresses in them."""
    init("prometheus", "mon", "--sidecar", "rag-1.example:11612", "--alertmanager", "am:9", "--webhook", "https://x.y/z")
    checked = [subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
               for command in ([promtool(), "check", "config", "mon/prometheus.yml"],
                               [amtool(), "check-config", "mon/alertmanager.yml"])]
    prometheus, alertmanager = (yaml.safe_load(Path(f"mon/{name}.yml").read_text())
                                for name in ("prometheus", "alertmanager"))

    assert [done.returncode for done in checked] == [0, 0], checked
    assert "mon/rules/fleet.yml" in checked[0].stdout
    assert prometheus["scrape_configs"][0]["static_configs"] == [{"targets": ["rag-1.example:11612"]}]
    assert prometheus["alerting"]["alertmanagers"] == [{"static_configs": [{"targets": ["am:9"]}]}]
    assert alertmanager["receivers"][0]["webhook_configs"][0]["url"] == "https://x.y/z"


@pytest.mark.parametrize(("host", "said"), [("rag-1", True), ("localhost", False), ("10.0.0.1", False)])
def test_dashboards_are_those_of_the_repository(init: Init, checkout: Path, host: str, said: bool) -> None:
    """Every dashboard is written as it is, with data sources at the user's addresses; a name that the sidecar has to be
    told of is said so."""
    init("dashboards", "--sidecar", f"{host}:1161", "--prometheus", "prom.example:80")
    written = {path.name: path.read_bytes() for path in Path().glob("*.json")}
    file = Path("provisioning/datasources/rag-sidecar.yml")

    assert written == {path.name: path.read_bytes() for path in (checkout / "dashboards").glob("*.json")} != {}
    assert [each["url"] for each in yaml.safe_load(file.read_text())["datasources"]] == [
        "http://prom.example:80", f"http://{host}:1161"]
    assert (f"hosts: [{host}]" in file.read_text()) is said


@pytest.mark.parametrize(("what", "flag", "value"), [
    ("prometheus", "--sidecar", "a"), ("prometheus", "--alertmanager", "a:9]}"), ("prometheus", "--webhook", 'http://"'),
    ("dashboards", "--sidecar", "http://a:1"), ("dashboards", "--prometheus", "a b:1"),
])
def test_what_is_no_address_is_refused(init: Init, what: str, flag: str, value: str) -> None:
    """Nothing but a host and a port goes where a host and a port are meant."""
    init(what, f"{flag}={value}", code=1)

    assert os.listdir() == []
