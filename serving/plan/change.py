"""Plan: the Changes that lead from a World to a Target, in an order that is safe to follow.

Each Change says its effect in one sentence, in words that an operator can agree to before it happens.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from serving.hosting import BatchPolicy
from serving.plan.target import DeploymentTarget, EngineSettings
from serving.routing import PLAIN, Route, traffic_words


@dataclass(frozen=True, slots=True)
class Start:
    """A version that does not run yet."""

    deployment: DeploymentTarget

    @property
    def subject(self) -> str:
        return self.deployment.key

    @property
    def effect(self) -> str:
        gpus = self.deployment.gpus
        each = f", {gpus:g} GPU{'s' if gpus > 1 else ''} each" if gpus else ""
        return f"{self.subject} starts on {_replicas(self.deployment.replicas)}{each}"


@dataclass(frozen=True, slots=True)
class Stop:
    """A version that is not wanted any more; no route names it when its turn comes."""

    deployment: DeploymentTarget

    @property
    def subject(self) -> str:
        return self.deployment.key

    @property
    def effect(self) -> str:
        return f"{self.subject} stops, {_replicas(self.deployment.replicas)} drain and end"


@dataclass(frozen=True, slots=True)
class Replace:
    """The same version with other code or resources: all of its replicas restart. `reasons` are words of the YAML."""

    before: DeploymentTarget
    deployment: DeploymentTarget
    reasons: tuple[str, ...]

    @property
    def subject(self) -> str:
        return self.deployment.key

    @property
    def effect(self) -> str:
        what = _enumerate([_REASONS.get(r, r) for r in self.reasons])
        return f"{self.subject} restarts on {_replicas(self.deployment.replicas)}: {what} changed"


_REASONS = {"contents": "the artefact's contents", "artefact": "the artefact's path"}


@dataclass(frozen=True, slots=True)
class Scale:
    """More or fewer replicas of what runs."""

    before: DeploymentTarget
    deployment: DeploymentTarget

    @property
    def subject(self) -> str:
        return self.deployment.key

    @property
    def effect(self) -> str:
        return f"{self.subject} scales from {self.before.replicas} to {_replicas(self.deployment.replicas)}, no restart"


@dataclass(frozen=True, slots=True)
class Rebatch:
    """Another batching policy, taken over in place."""

    before: DeploymentTarget
    deployment: DeploymentTarget

    @property
    def subject(self) -> str:
        return self.deployment.key

    @property
    def effect(self) -> str:
        before, after = self.before.plan.batching, self.deployment.plan.batching
        edits = [f"{name} {was} → {new}" for name, was, new in zip(*_policy(before), _policy(after)[1], strict=True) if was != new]
        return f"batching of {self.subject}: {', '.join(edits)}, no restart"


@dataclass(frozen=True, slots=True)
class EditRoute:
    """Another Route of one endpoint; `after` None removes it, `before` None is a new one."""

    before: Route | None
    after: Route | None

    @property
    def subject(self) -> str:
        route = self.after or self.before
        return route.endpoint if route else ""

    @property
    def effect(self) -> str:
        before, after = self.before, self.after
        if after is None:
            return f"{self.subject} is no longer served"
        if before is None:
            plain = after.traffic == PLAIN
            return f"{self.subject} answers with version {after.stable}" if plain else f"{self.subject} answers: {traffic_words(after)}"
        was, new = traffic_words(before), traffic_words(after)
        if was != new:
            return f"traffic of {self.subject}: {was} → {new}, no restart"
        if before.stable != after.stable:
            return f"{self.subject}: version {after.stable} stands in for others, instead of {before.stable}, no restart"
        parts = []
        if came := [v for v in after.versions if v not in before.versions]:
            parts.append(f"version {_enumerate(came)} can be asked for")
        if went := [v for v in before.versions if v not in after.versions]:
            parts.append(f"version {_enumerate(went)} can no longer be asked for")
        if before.at_most_once != after.at_most_once:
            parts.append(
                "a request is never sent a second time" if after.at_most_once else "a request that a replica lost is sent to another"
            )
        return f"{self.subject}: {'; '.join(parts) or 'the order of its versions changes'}, no restart"


@dataclass(frozen=True, slots=True)
class ResizeGateways:
    """More or fewer gateway processes."""

    before: int
    after: int

    subject = "gateways"

    @property
    def effect(self) -> str:
        if not self.before:
            return f"{_count(self.after, 'gateway')} start{'s' if self.after == 1 else ''}"
        drain = ", those that leave drain first" if self.after < self.before else ""
        return f"gateways: {self.before} → {self.after}{drain}"


@dataclass(frozen=True, slots=True)
class ChangeSettings:
    """Other settings of the engine. All but `edge` reach the gateways as values, without a restart."""

    before: EngineSettings | None
    after: EngineSettings

    subject = "settings"

    @property
    def effect(self) -> str:
        if self.before is None:
            return f"settings: server_name {self.after.server_name}, edge {self.after.edge}"
        was, new = _settings(self.before), _settings(self.after)
        edits = ", ".join(f"{name} {was[name]} → {new[name]}" for name in new if was[name] != new[name])
        return f"settings: {edits}, {'the edge restarts' if self.before.edge != self.after.edge else 'no restart'}"


Change = Start | Stop | Replace | Scale | Rebatch | EditRoute | ResizeGateways | ChangeSettings


@dataclass(frozen=True, slots=True)
class Plan:
    """Changes in the order to make them. Before an EditRoute, each version it names has to be ready."""

    changes: tuple[Change, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.changes)

    def __str__(self) -> str:
        return "\n".join(c.effect for c in self.changes) or "nothing to change"

    def to_json(self) -> dict[str, Any]:
        """Return plain values for people and programs that read plans; a plan is never read back."""
        return {"changes": [{"change": _WORDS[type(c)], "subject": c.subject, "effect": c.effect} for c in self.changes]}


_WORDS: dict[type[Change], str] = {
    Start: "start", Stop: "stop", Replace: "replace", Scale: "scale", Rebatch: "batching",
    EditRoute: "route", ResizeGateways: "gateways", ChangeSettings: "settings",
}  # fmt: skip


def _replicas(n: int) -> str:
    return _count(n, "replica")


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _enumerate(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _policy(policy: BatchPolicy) -> tuple[list[str], list[str]]:
    """Return the names that the YAML has for what can change in place, and the values in its units."""
    values = {
        "max_delay_ms": f"{policy.max_delay_s * 1000:g}",
        "max_queue_requests": f"{policy.max_queue_requests}",
        "max_queue_mb": f"{policy.max_queue_bytes / (1 << 20):g}",
        "timeout_ms": f"{policy.timeout_s * 1000:g}",
        "max_streams": f"{policy.max_streams}",
        "at_most_once": "false" if policy.isolate else "true",
    }
    return list(values), list(values.values())


def _settings(settings: EngineSettings) -> dict[str, Any]:
    values = asdict(settings)
    del values["gateways"]
    values["webhooks"] = ", ".join(w.host for w in settings.webhooks) or "none"
    return values | {f"limits.{k}": v for k, v in values.pop("limits").items()}
