"""A desk in virtual time that takes orders: what stands behind the servers in tests of who may order what."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from sidecar.actions.policy import Decision, Reason
from sidecar.guard.wire import Order
from sidecar.model import Cleanup
from sidecar.thresholds import Override
from sidecar.web.hands import Asked, Hands, Wish

NOW = 1_795_165_900.0
TOKEN = "-".join(("correct", "horse", "battery", "staple"))
US = "http://127.0.0.1:11611"
ROW = {"id": "api:1", "outcome": "effective", "duration_seconds": 1.0, "delivered_at": NOW, "freed_bytes": 1}


@dataclass
class Desk:
    """A desk in virtual time: whoever sleeps moves the clock. It grants a wish at `granted_at`."""

    targets: tuple[str, ...] = ("rag",)
    reason: Reason = Reason.BELOW
    granted_at: float = NOW
    acknowledged_at: float = NOW
    room: bool = True
    now: float = NOW
    wishes: list[Wish] = field(default_factory=list)
    orders: list[tuple[str, Cleanup, bool]] = field(default_factory=list)
    said: list[tuple[Any, ...]] = field(default_factory=list)
    paused: dict[str, float | None] = field(default_factory=dict)
    overrides: dict[str, Override] = field(default_factory=dict)
    row: dict[str, Any] = field(default_factory=lambda: dict(ROW))

    async def sleep(self, seconds: float) -> None:
        """Let time pass, and do what falls due."""
        self.now += seconds
        for wish in self.wishes:
            self.work(wish)
        await asyncio.sleep(0)

    def work(self, wish: Wish) -> None:
        """Decide about a wish."""
        reason = Reason.ACT if self.now >= self.granted_at else self.reason
        order = Order("api:1", wish.asked.target, wish.asked.cleanup, (), {}, None) if reason is Reason.ACT else None
        wish.decision = Decision(wish.asked.target, reason, wish.asked.cleanup, order)
        wish.over = order is not None or self.now >= wish.until

    def ask(self, asked: Asked) -> Wish | None:
        """Take a wish."""
        if not self.room:
            return None
        self.wishes.append(Wish(asked, self.now + asked.ttl_seconds))
        self.work(self.wishes[-1])
        return self.wishes[-1]

    def order(self, target: str, cleanup: Cleanup, dry_run: bool) -> Decision:
        """A person's order."""
        self.orders.append((target, cleanup, dry_run))
        return Decision(target, Reason.ACT, cleanup, Order("api:1", target, cleanup, (), {}, None))

    def pause(self, target: str | None, seconds: float | None) -> None:
        """Note it."""
        self.said.append(("pause", target, seconds))
        for name in [target] if target else self.targets:
            self.paused[name] = None if seconds is None else self.now + seconds

    def resume(self, target: str | None) -> None:
        """Note it."""
        self.said.append(("resume", target))
        for name in [target] if target else self.targets:
            self.paused.pop(name, None)

    def unpark(self, target: str | None) -> list[str]:
        """Note it; `rag` was parked."""
        self.said.append(("unpark", target))
        return ["rag"]

    def lines(self, target: str) -> dict[str, Any]:
        """Its lines: 1000 MiB and 1200 MiB are configured."""
        override = self.overrides.get(target)
        main, critical = (override.main_bytes, override.critical_bytes) if override else (None, None)
        return {"target": target, "up": True, "in_force": self.now >= self.acknowledged_at, "basis": "anon",
                "armed": True, "limit_bytes": None, "warnings": [],
                "override": {"main_bytes": main, "critical_bytes": critical, "until": override.until}
                if override else None,
                "lines": {level: {"bytes": given or plan, "source": "api" if given else "file", "how": ""}
                          for level, given, plan in (("main", main, 1000 << 20), ("critical", critical, 1200 << 20))}}

    def override(self, target: str, override: Override | None) -> None:
        """Note it."""
        self.said.append(("override", target, override))
        if override is None:
            self.overrides.pop(target, None)
        elif override.main_bytes == override.critical_bytes:
            raise ValueError("main is not below critical")
        else:
            self.overrides[target] = override

    def hands(self) -> Hands:
        """What the server gets."""
        return Hands(
            self.targets, {"main": "standard", "critical": "aggressive"}, US, self.order, lambda order_id: self.row,
            self.ask, self.pause, self.resume, self.unpark,
            lambda: self.paused, lambda target: self.now >= self.acknowledged_at, self.lines, self.override,
            lambda: self.now, self.sleep)
