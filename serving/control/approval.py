"""Approvals: changes of models that `access.approval` names wait until somebody else with the role approver agrees.

A change that waits is kept whole: what the engine would be told, the YAML, who asked and why, and the models as they were then. When it is
approved it is made if these models are still so, and their files too; other models may have changed meanwhile. The change is recorded
under the name of who asked for it, the approval under that of who gave it. Way back: a rollback goes to what has been in force before
and does not wait. While access is off nobody knows who is who, so nothing waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, Self

from serving.access.identity import Grant, Identity, Role
from serving.access.settings import AccessSettings
from serving.control.acceptance import Act, effects, part, with_part
from serving.control.edit import Conflict
from serving.control.event import Event
from serving.control.ports import YamlText
from serving.control.runner import Runner
from serving.errors import NotFound, PermissionDenied, ServingError
from serving.plan import Target, fingerprint

PENDING, APPROVED, REJECTED, OVERTAKEN = "pending", "approved", "rejected", "overtaken"
DECIDED = APPROVED, REJECTED, OVERTAKEN
MAX_PENDING = 100
PAGE = 100
"""So many are shown at once."""
SETTINGS = ""
"""Stands for the engine's settings among models."""


@dataclass(frozen=True, slots=True)
class Approval:
    """One change and what became of it. Times in seconds since 1970.

    base      fingerprint of each model that it changes, as it was when it was asked for
    effects   what it was going to do, in words
    revision  which it became, 0 where it did not
    """

    kind: str
    author: str
    reason: str
    at: float
    target: dict[str, Any]
    base: dict[str, str]
    effects: tuple[str, ...]
    files: tuple[YamlText, ...] = ()
    number: int = 0
    state: str = PENDING
    by: str = ""
    why: str = ""
    decided_at: float = 0.0
    revision: int = 0

    @property
    def models(self) -> list[str]:
        return [name for name in self.base if name != SETTINGS]

    def told(self) -> dict[str, Any]:
        """Return what lists show: all but the target and its files."""
        shown = ("number", "state", "kind", "author", "reason", "at", "by", "why", "decided_at", "revision")
        return {name: getattr(self, name) for name in shown} | {"models": self.models, "effects": list(self.effects)}

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(**{**value, "effects": tuple(value["effects"]), "files": tuple(YamlText(**f) for f in value["files"])})


class ApprovalStore(Protocol):
    """Where they are kept."""

    def approval(self, number: int) -> Approval | None:
        """Return the one of this number."""

    def approvals(self, states: Collection[str], limit: int, before: int = 0) -> list[Approval]:
        """Return the newest in one of these states, oldest first. before: only those with smaller numbers, 0 = all."""

    def put_approval(self, approval: Approval, tell: Callable[[Approval], Iterable[Event]], at: float) -> Approval:
        """Keep one, under its number, or a new one where that is 0; and record the events that `tell` makes of it."""


class _Waits(Exception):
    def __init__(self, before: Target, after: Target) -> None:
        super().__init__()
        self.before, self.after = before, after


class Approvals:
    """Every change of somebody who has been identified goes through `change`. May be used from several threads."""

    def __init__(
        self,
        runner: Runner,
        store: ApprovalStore,
        now: Callable[[], float],
        check: Callable[[str, Target], None],
        settle: Callable[[AccessSettings], AccessSettings],
    ) -> None:
        """check(model, target): raises where a version of it that would have to be started is not what it was. settle: see Keyring."""
        self._runner = runner
        self._settle = settle
        self._store = store
        self._now = now
        self._check = check
        self._lock = threading.Lock()

    def waits(self, model: str) -> bool:
        """Whether changes of the model need an approval."""
        access = self._settle(self._runner.target.settings.access)
        return access.enabled and bool(access.approval) and Grant(Role.approver, access.approval).covers(model)

    def needed(self, before: Target, after: Target) -> list[str]:
        """Return the models because of which this change would wait."""
        return [name for name in changed_names(before, after) if name != SETTINGS and self.waits(name)]

    def change(
        self, identity: Identity | None, edit: Callable[[Target], Target], act: Act, again: Collection[str] = ()
    ) -> tuple[int, Approval | None]:
        """Make a change and return its revision; or keep it, and return the revision that goes on, and what waits now."""

        def checked(now: Target) -> Target:
            after = edit(now)
            if identity is not None and self.needed(now, after):
                raise _Waits(now, after)
            return after

        try:
            return self._runner.change(checked, act, again), None
        except _Waits as waits:
            return self._runner.status.revision, self._keep(waits.before, waits.after, act)

    def all(self, state: str = "", limit: int = PAGE, before: int = 0) -> list[Approval]:
        """Return the newest, oldest first; what waits and no longer fits counts as overtaken. before: as in ApprovalStore."""
        now = self._runner.target
        kept = {"": (PENDING, *DECIDED), OVERTAKEN: (PENDING, OVERTAKEN)}.get(state, (state,))
        found = [_as_of(a, now) for a in self._store.approvals(kept, limit, before)]
        return [a for a in found if not state or a.state == state]

    def find(self, number: int) -> Approval:
        """Raises NotFound."""
        approval = self._store.approval(number)
        if approval is None:
            raise NotFound(f"there is no plan {number} that waits or has waited for an approval")
        return _as_of(approval, self._runner.target)

    def approve(self, number: int, identity: Identity | None, who: str, why: str) -> Approval:
        """Carry it out. Raises PermissionDenied for its author and who is no approver of its models, Conflict where it no longer fits."""
        with self._lock:
            approval = self._pending(number)
            self._demand(approval, identity)
            if who == approval.author:
                raise PermissionDenied(f"'{who}' has asked for plan {number}; somebody else has to approve it")
            wanted = Target.from_json(approval.target)

            def edit(now: Target) -> Target:
                if not _fits(approval, now):
                    raise Conflict(f"plan {number} no longer fits: what it changes has been changed since; ask for it again")
                for model in approval.models:
                    now = with_part(now, wanted, model)
                now = replace(now, shelf=now.shelf.without(approval.models))
                return replace(now, settings=wanted.settings, given=wanted.given) if SETTINGS in approval.base else now

            for model in approval.models:
                self._check(model, wanted)
            reason = f"{approval.reason} (plan {number}, approved by {who})"
            act = Act(approval.author, reason, approval.kind, approval.files)
            revision = self._runner.change(edit, act, approval.models)
            return self._decide(replace(approval, state=APPROVED, revision=revision), who, why, "approval.given")

    def reject(self, number: int, identity: Identity | None, who: str, why: str) -> Approval:
        """End it; its author may, too. Raises PermissionDenied, Conflict."""
        with self._lock:
            approval = self._pending(number, overtaken=True)
            if who != approval.author:
                self._demand(approval, identity)
            return self._decide(replace(approval, state=REJECTED), who, why, "approval.refused")

    def _pending(self, number: int, overtaken: bool = False) -> Approval:
        approval = self.find(number)
        if approval.state == PENDING or (overtaken and approval.state == OVERTAKEN):
            return approval
        if approval.state == OVERTAKEN:
            # what somebody has been told stays so, even if the models come back to what they were
            self._store.put_approval(approval, lambda _: (), self._now())
        by = f" by {approval.by}" if approval.by else "; ask for it again"
        raise Conflict(f"plan {number} does not wait any more: {approval.state}{by}")

    def _demand(self, approval: Approval, identity: Identity | None) -> None:
        if identity is None:
            return
        for model in approval.models:
            identity.demand(Role.approver, model)
        if SETTINGS in approval.base:
            identity.demand_all(Role.approver)

    def _keep(self, before: Target, after: Target, act: Act) -> Approval:
        with self._lock:
            waiting = [_as_of(old, before) for old in self._store.approvals((PENDING,), MAX_PENDING)]
            for old in waiting:
                if old.state == OVERTAKEN:
                    self._store.put_approval(old, lambda _: (), self._now())
            if sum(old.state == PENDING for old in waiting) >= MAX_PENDING:
                raise Conflict(f"{MAX_PENDING} plans wait for an approval already; approve or reject some first")
            base = {name: _print_of(before, name) for name in changed_names(before, after)}
            said = tuple(c.effect for c in effects(before, after).changes)
            draft = Approval(act.kind, act.author, act.reason, self._now(), after.to_json(), base, said, act.files)
            return self._store.put_approval(draft, lambda kept: [self._event(kept, "approval.asked", act.author, act.reason)], draft.at)

    def _decide(self, approval: Approval, who: str, why: str, kind: str) -> Approval:
        now = self._now()
        decided = replace(approval, by=who, why=why, decided_at=now)
        return self._store.put_approval(decided, lambda kept: [self._event(kept, kind, who, why)], now)

    def _event(self, approval: Approval, kind: str, who: str, why: str) -> Event:
        model = approval.models[0] if len(approval.models) == 1 else ""
        what = f"plan {approval.number}: {'; '.join(approval.effects) or approval.kind}"
        after = {"models": approval.models, "author": approval.author, "base": approval.base}
        return Event(kind, what, model, "", who, why, None, after, approval.revision)


def refuse_at_once(approvals: Approvals, model: str) -> None:
    """Raise PermissionDenied where a change of the model has to wait, for who cannot wait: a client that loads or unloads it."""
    if approvals.waits(model):
        raise PermissionDenied(f"changes of '{model}' need an approval: ask for it with `serving apply` or `serving delete`")


def changed_names(before: Target, after: Target) -> list[str]:
    """Return the models that differ, and SETTINGS where these do."""
    names = dict.fromkeys([*before.routes.routes, *after.routes.routes])
    found = [name for name in names if part(before, name) != part(after, name)]
    return [*found, SETTINGS] if before.settings != after.settings else found


def _print_of(target: Target, name: str) -> str:
    return fingerprint(part(target, name) if name != SETTINGS else Target(target.settings))


def _as_of(approval: Approval, now: Target) -> Approval:
    """Return it as it is while the engine's target is this."""
    return approval if approval.state != PENDING or _fits(approval, now) else replace(approval, state=OVERTAKEN)


def _fits(approval: Approval, now: Target) -> bool:
    try:
        Target.from_json(approval.target)
    except (KeyError, TypeError, ValueError, ServingError):
        return False  # another release has kept it
    return all(_print_of(now, name) == seen for name, seen in approval.base.items())
