"""A unit of systemd (systemd.service(5), systemd.exec(5)), with the fewest rights that do."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sidecar import __version__
from sidecar.init.kit import Kit, fit

FILE = "rag-sidecar.service"
STATE = "/var/lib/rag-sidecar"

_TEXT = """\
# Written by `rag-sidecar init systemd` of rag-sidecar {version}. Changes of your own: systemctl edit rag-sidecar
[Unit]
Description=rag-sidecar, which guards the memory of {target}
After=network.target {service}
# A guard that is not started again is none.
StartLimitIntervalSec=0

[Service]
Type=exec
# User and group of the program that is watched: they may look into it and send it signals, without any capability.
User={user}
{group}
ExecStart={command} run --config.file {config} --storage.path {state}
# Ends when the configuration is in force; fails, with every mistake, where it was refused and nothing has changed.
ExecReload={command} reload --storage.path {state}
Restart=on-failure
RestartSec=2s
# The guard is told to end, and ends all that it has started.
KillMode=mixed
TimeoutStopSec=30s
StateDirectory=rag-sidecar
StateDirectoryMode=0700
UMask=0077

# At work while others are short of memory and time. Of its two processes the guard is the smaller, so the other one is
# killed first; the guard starts it again, so the unit is to go on.
OOMScoreAdjust=-900
OOMPolicy=continue
MemoryMax=512M
TasksMax=256
LimitNICE=-10
LimitMEMLOCK=infinity
LimitNOFILE=1024:65536

# Programs of actions.allow_exec run inside all of this, too. A brake (docs/brake.md) takes more: the right to write to
# the cgroup, and neither ProtectControlGroups nor ProtectKernelTunables.
NoNewPrivileges=yes
# What `rag-sidecar doctor` may advise to add as AmbientCapabilities; as it stands here the sidecar has none of them.
CapabilityBoundingSet=CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_KILL CAP_SYS_PTRACE
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""


class Running(NamedTuple):
    """How the sidecar is run: `command` are its first words, `user` is USER or USER:GROUP, `service` the unit of the
    program that is watched, `config` the path of its sidecar.yml."""

    command: Sequence[str]
    user: str
    service: str
    config: str
    target: str


def kit(running: Running, folder: Path) -> Kit:
    """rag-sidecar.service."""
    path = folder / FILE
    return Kit({path: text(running)}, (
        f"sudo install -m 644 {shlex.quote(str(path))} /etc/systemd/system/{FILE}  # it reads {running.config}",
        "sudo systemctl daemon-reload && sudo systemctl enable --now rag-sidecar"))


def text(running: Running) -> str:
    """The content of the unit. Raises SidecarError for names that mean something else there (spaces, %, $, quotes)."""
    user, colon, group = running.user.partition(":")
    name = r"[A-Za-z_][A-Za-z0-9_-]{0,30}|\d{1,10}"
    path = r"/[A-Za-z0-9._/+@:-]*[A-Za-z0-9._+@-]"
    fit(user, name, "the name of a user", "www-data")
    service = fit(running.service, r"[A-Za-z0-9:_.@-]{1,200}", "the name of a unit", "rag.service")
    first, *rest = running.command
    fit(first, path, "the path of a program", "/usr/local/bin/rag-sidecar")
    return _TEXT.format(
        version=__version__, target=running.target, user=user, state=STATE,
        group=f"Group={fit(group, name, 'the name of a group', 'www-data')}" if colon else "# Group=",
        service=service if "." in service else f"{service}.service",
        config=fit(running.config, path, "the path of a file", "/etc/rag-sidecar/sidecar.yml"),
        command=" ".join((first, *rest)))
