"""Controller: brings the cluster to the accepted Target. Its tick observes, decides through plan.diff and acts; it may be repeated at will.

Deploying the same version twice is harmless (`Cluster.deploy`), so a controller that has just been restarted starts from an empty
memory: it asks for everything again, and what runs already goes on untouched.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from serving.access.settings import AccessRules, AccessSettings
from serving.control.acceptance import Act, accept
from serving.control.event import Event
from serving.control.ports import Acknowledged, Clock, Cluster, Revision, Seen, Store, VersionSeen
from serving.control.status import GatewayStatus, State, Status, VersionStatus
from serving.control.wishes import Edit, Tell, WishBook
from serving.control.witness import Sight, Witness, memory
from serving.errors import Unavailable
from serving.plan import (
    ChangeSettings,
    DeploymentTarget,
    EditRoute,
    EngineSettings,
    Outlook,
    Plan,
    Rebatch,
    Replace,
    ResizeGateways,
    Running,
    Scale,
    Start,
    Stop,
    Target,
    World,
    diff,
    outlook,
)
from serving.routing import Route, RouteTable, part_words
from serving.state import GatewayState
from serving.wishes import Wishes

log = logging.getLogger(__name__)

ADOPT_AFTER_S = 5.0
"""What runs and is not known to a new controller is stopped only after this time; its own orders come first."""


UNTOLD = 1000
"""Events that wait for the disk; of more, the oldest are lost."""


Access = Callable[[AccessSettings], AccessRules | None]


def _everybody(_: AccessSettings) -> None:
    """Access is off."""


class Controller:
    """Not thread-safe: one thread calls `accept`, `wish` and `tick`; `status` may be read from anywhere."""

    def __init__(self, cluster: Cluster, store: Store, clock: Clock, access: Access = _everybody, wishes: WishBook | None = None) -> None:
        """access: from what the settings say to what gateways have to check."""
        self._access = access
        self._cluster = cluster
        self._store = store
        self._clock = clock
        self.wishes = wishes or WishBook()
        self.wishes_told = 0
        """The number of the wishes that every gateway knows."""
        self._revision: Revision | None = store.latest()
        self._asked: dict[str, DeploymentTarget] = {}
        self._settings: EngineSettings | None = None
        self._routes: dict[str, Route] = {}
        self._state: GatewayState | None = None
        self._acknowledged: dict[str, Acknowledged] = {}
        self._short: dict[str, str] = {}
        """Why a version cannot be placed, by key."""
        self._retiring: set[str] = set()
        """Asked to stop, and not gone yet."""
        self._known: dict[str, tuple[State, float]] = {}
        """State of each version, and since when."""
        self._seen = Seen()
        self._witness = Witness(memory(store))
        self._untold: list[Event] = []
        """What has happened and could not be recorded yet."""
        self._ordered: set[str] = set()
        """Deployed in this round, so that what was seen at its beginning is not of it."""
        self._started_at = clock.now()
        self.status = Status()

    @property
    def target(self) -> Target:
        return self._revision.target if self._revision else Target()

    @property
    def revision(self) -> Revision | None:
        return self._revision

    @property
    def told(self) -> bool:
        """Whether every gateway has what was published last."""
        return not self._behind(self._seen)

    @property
    def world(self) -> World:
        """What was asked for and seen last."""
        return self._world(self._seen)

    def outlook(self, target: Target) -> Outlook:
        """Return what accepting this target would do. Raises Unavailable while the cluster cannot be asked."""
        return outlook(target, self.world, self._cluster.nodes(), self._cluster.shortage)

    def accept(self, target: Target, act: Act, again: Collection[str] = ()) -> int:
        """Keep the target as a revision and return its number; the same target twice is one revision.

        Versions of the models `again` that have failed are tried again.
        """
        before, self._revision = self._revision, accept(self._store, self._revision, target, act, self._clock.now())
        if self._revision is not before:
            log.info("revision %d by %s: %s", self._revision.number, act.author, act.reason)
        self._stop(v.key for v in self.status.versions if v.state == "failed" and v.model in again and v.key in self._asked)
        versions = tuple(replace(v, state="starting") if v.state == "failed" and v.model in again else v for v in self.status.versions)
        self.status = replace(self.status, revision=self._revision.number, settled=False, versions=versions)
        return self._revision.number

    def hindered(self, reason: str) -> None:
        """Have the status say why this round could not be worked: a full disk, a cluster that cannot be asked. The next one looks anew."""
        self.status = replace(self.status, settled=False, waiting=(reason,))

    def wish(self, edit: Edit, tell: Tell) -> Wishes:
        """Edit what clients wish; the next tick tells the gateways, and records what `tell` makes of the change."""
        before = self.wishes.now
        after = self.wishes.edit(edit)
        self._untold = [*self._untold, *tell(before, after)][-UNTOLD:]
        return after

    def tick(self) -> None:
        """One round. Raises ServingError where the cluster cannot be asked; the next tick begins anew."""
        seen = self._cluster.observe()
        self._seen = seen
        self._asked = {key: d for key, d in self._asked.items() if key in seen.versions}
        plan = diff(self.target, self._world(seen))
        held = {c.subject for c in plan.changes if isinstance(c, EditRoute) and not self._may_route(c, seen)}
        waiting = self._deploy(plan, seen, held)
        waiting += self._route(plan, seen, held)
        waiting += self._retire(plan, seen, held)
        self._report(seen, waiting)
        self._note(seen)

    # Deciding

    def _world(self, seen: Seen) -> World:
        running = {}
        for key, asked in self._asked.items():
            # ordered after this was seen: it will be starting
            v = seen.versions.get(key, VersionSeen(starting=asked.replicas))
            running[key] = Running(asked, v.running, v.starting, int(v.failed))
        return World(self._settings, len(seen.gateways), running, RouteTable(0, self._routes))

    def _may_route(self, edit: EditRoute, seen: Seen) -> bool:
        """A route gives versions more than they had only when all of these answer, unless there is nothing to lose."""
        before, after = edit.before, edit.after
        if before is None or after is None or not self._awaited(before, after, seen):
            return True
        return not any(self._answers(f"{before.endpoint}/{v}", seen) for v in before.shares)

    def _awaited(self, before: Route, after: Route, seen: Seen) -> list[str]:
        """Return the versions that an edit has to wait for."""
        return [v for v in sorted(after.gains(before), key=int) if not self._answers(f"{after.endpoint}/{v}", seen)]

    def _answers(self, key: str, seen: Seen) -> bool:
        known = seen.versions.get(key)
        return known is not None and known.running > 0 and all(key in a.served for a in self._acknowledged.values())

    # Acting, in the order of the plan

    def _deploy(self, plan: Plan, seen: Seen, held: set[str]) -> list[str]:
        waiting: list[str] = []
        orders: dict[str, DeploymentTarget] = {}
        for change in plan.changes:
            if isinstance(change, ResizeGateways | ChangeSettings) and self._settings != self.target.settings:
                self._cluster.resize(self.target.settings)
                self._settings = self.target.settings
            elif isinstance(change, Start | Replace | Scale | Rebatch):
                deployment = change.deployment
                if deployment.key in seen.versions and deployment.key in self._retiring:
                    waiting.append(f"{deployment.key} starts when its old replicas have gone")
                elif isinstance(change, Replace) and deployment.plan.model in held and self._is_asked(deployment):
                    waiting.append(f"{change.effect}, when its endpoint has moved")
                elif short := self._shortage(deployment):
                    log.debug("%s: %s", deployment.key, short)
                else:
                    orders[deployment.key] = deployment
        self._ordered = set(orders)
        if orders:
            self._log(plan, orders)
            self._cluster.deploy(orders.values())
            self._asked |= orders
            self._retiring -= orders.keys()
        return waiting

    def _is_asked(self, deployment: DeploymentTarget) -> bool:
        """Whether requests reach the version now, although their callers name none."""
        route = self._routes.get(deployment.plan.model)
        return route is not None and deployment.plan.version in route.named

    def _shortage(self, deployment: DeploymentTarget) -> str:
        short = self._cluster.shortage(deployment)
        if short:
            self._short[deployment.key] = short
        else:
            self._short.pop(deployment.key, None)
        return short

    def _route(self, plan: Plan, seen: Seen, held: set[str]) -> list[str]:
        """Edit what may be edited, give the state to every gateway that does not have it, note what they serve."""
        waiting: list[str] = []
        for change in plan.changes:
            if not isinstance(change, EditRoute):
                continue
            if change.subject in held and change.before and change.after:
                # gateways look for the new version's replicas before it gets traffic
                both = {*change.before.versions, *change.after.versions}
                self._routes[change.subject] = replace(change.before, versions=tuple(sorted(both, key=int)))
                awaited = self._awaited(change.before, change.after, seen)
                waiting.append(f"{change.effect}, when version {' and '.join(awaited)} {'is' if len(awaited) == 1 else 'are'} ready")
            elif change.after is None:
                self._routes.pop(change.subject, None)
            else:
                self._routes[change.subject] = change.after
        settings = self.target.settings
        draft = GatewayState(
            RouteTable(0, dict(self._routes)),
            settings.limits,
            settings.server_name,
            client_shm=settings.client_shared_memory,
            forward_headers=settings.forward_headers,
            wishes=self.wishes.now,
            access=self._access(settings.access),
            base_path=settings.base_path,
        )
        if self._state is None or replace(self._state, routes=replace(self._state.routes, revision=0)) != draft:
            number = self._store.next_publication()
            self._state = replace(draft, routes=replace(draft.routes, revision=number))
        if seen.gateways and (not self.status.settled or self._behind(seen)):
            self._acknowledged = {a.gateway: a for a in self._cluster.publish(self._state)}
        behind = self._behind(seen)
        if not behind:
            self.wishes_told = self._state.wishes.number
        else:
            waiting.append(f"{len(behind)} of {len(seen.gateways)} gateways have no answer yet")
        return waiting

    def _behind(self, seen: Seen) -> list[str]:
        revision = self._state.revision if self._state else 0
        return [g for g in seen.gateways if g not in self._acknowledged or self._acknowledged[g].revision < revision]

    def _retire(self, plan: Plan, seen: Seen, held: set[str]) -> list[str]:
        """Stop what no route names any more: only once every gateway has the routes that say so."""
        stops = [c.deployment for c in plan.changes if isinstance(c, Stop)]
        ready = [d.key for d in stops if d.plan.model not in held and not self._behind(seen)]
        self._stop(ready)
        unknown = seen.versions.keys() - self._asked.keys() - self._retiring - {d.key for d in self.target.deployments}
        if unknown and self._clock.now() - self._started_at > ADOPT_AFTER_S:
            self._stop(unknown)
        self._retiring &= seen.versions.keys()
        left = [f"{d.key} stops when its endpoint has moved" for d in stops if d.key not in ready]
        return left + [f"{key} drains" for key in sorted(self._retiring)]

    def _stop(self, keys: Iterable[str]) -> None:
        keys = list(keys)
        if not keys:
            return
        log.info("stopping %s", ", ".join(keys))
        self._cluster.retire(keys)
        self._retiring |= set(keys)
        for key in keys:
            self._asked.pop(key, None)

    def _log(self, plan: Plan, orders: dict[str, DeploymentTarget]) -> None:
        for change in plan.changes:
            if change.subject in orders and isinstance(change, Start | Replace | Scale | Rebatch):
                log.info("%s", change.effect)

    # Telling

    def _report(self, seen: Seen, waiting: list[str]) -> None:
        target = self.target
        versions = tuple(self._dated(self._version(d, seen)) for d in target.deployments)
        self._known = {v.key: self._known[v.key] for v in versions}
        wanted = target.settings.gateways
        wished = target.routes.routes
        if len(seen.gateways) < wanted:
            waiting.append(f"{wanted - len(seen.gateways)} of {wanted} gateways are starting")
        waiting += [f"{v.key} is starting" for v in versions if v.state == "starting"]
        waiting += [f"{v.key} is being updated" for v in versions if v.state == "ready" and v.updating and not v.failures]
        if seen.edge:
            waiting.append(f"the edge: {seen.edge}")
        self.status = Status(
            revision=self._revision.number if self._revision else 0,
            published=self._state.revision if self._state else 0,
            settled=not waiting and self._revision is not None,
            versions=versions,
            gateways=tuple(GatewayStatus(a.gateway, a.revision) for a in self._acknowledged.values() if a.gateway in seen.gateways),
            gateways_wanted=wanted,
            edge=seen.edge,
            waiting=tuple(waiting),
            answering={name: route.stable for name, route in self._routes.items()} if self._everywhere(seen) else {},
            worked=self._revision.number if self._revision else 0,
            behind=len(self._behind(seen)),
            moving=tuple(sorted(m for m in self._routes.keys() | wished.keys() if self._routes.get(m) != wished.get(m))),
            draining=tuple(sorted(self._retiring)),
        )

    def _everywhere(self, seen: Seen) -> bool:
        """Whether every gateway has the routes, and there is one."""
        return bool(seen.gateways) and self._state is not None and not self._behind(seen)

    def _note(self, seen: Seen) -> None:
        """Put what has happened since the last tick on record; what the disk does not take waits for the next."""
        settled = {k for k, v in seen.versions.items() if not v.starting and not v.stopping and k in self._asked}
        settled = {k for k in settled if seen.versions[k].running >= self._asked[k].replicas}
        sight = Sight(
            revision=self.status.revision,
            versions=self.status.versions,
            runs=frozenset(seen.versions),
            settled=frozenset(settled),
            routes=dict(self._routes) if self._everywhere(seen) else None,
            asked=dict(self._asked),
            gateways=len(seen.gateways),
            gateways_wanted=self.target.settings.gateways,
        )
        self._untold = [*self._untold, *self._witness.tell(sight)][-UNTOLD:]
        if self._untold:
            try:
                self._store.record(self._untold, self._clock.now())
            except Unavailable as error:
                log.warning("events wait for the disk: %s", error.message)
            else:
                self._untold = []

    def _dated(self, version: VersionStatus) -> VersionStatus:
        """Note a change of state; return the status with its time, and what people need to know of it in its reason."""
        state, since = self._known.get(version.key, ("", 0.0))
        if state != version.state:
            since = self._clock.now()
            self._known[version.key] = version.state, since
            log.info("%s is %s%s", version.key, version.state, f": {version.reason}" if version.reason else "")
        if not version.failures:
            return replace(version, since=since)
        when = f"next try at {_hour(version.next_try)}" if version.next_try > self._clock.now() else "trying again"
        return replace(version, reason=f"{version.reason} (since {_hour(version.since)}, {when})")

    def _version(self, deployment: DeploymentTarget, seen: Seen) -> VersionStatus:
        key, plan, target = deployment.key, deployment.plan, self.target
        known = seen.versions.get(key, VersionSeen())
        short = self._short.get(key, "")
        state: State
        if self._answers(key, seen):
            state, reason = "ready", known.reason if known.failed else known.trouble
        elif key not in self._asked and short:
            state, reason = "failed", short
        elif known.failed and not known.running and key not in self._retiring:
            state, reason = "failed", known.reason
        else:
            state, reason = "starting", short or known.reason
        route = target.routes.routes.get(plan.model)
        return VersionStatus(
            plan.model,
            plan.version,
            state,
            reason,
            known.running,
            deployment.replicas,
            route is not None and route.stable == plan.version,
            target.descriptions.get(key) or target.descriptions.get(plan.model, ""),
            known.since,
            known.failures,
            known.next_try,
            part_words(route, plan.version) if route is not None else "",
            (known.updating or key in self._ordered) and key not in self._retiring,
        )


def _hour(at: float) -> str:
    """Return a time as people of this machine read it."""
    return time.strftime("%H:%M:%S", time.localtime(at))
