"""ProcessTree: the processes of a server on this machine, what they used, and how they are found from its port.

A process belongs to the tree when one that belongs to it started it, or when it carries the same engine's tag in its environment (our
own engine: Ray's processes leave the tree). One that was seen once stays.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

from serving.errors import InvalidArgument

TAG = "SERVING_ENGINE"


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU since their start, and memory, of all processes together. pss_bytes None: not allowed to look."""

    cpu_s: float
    rss_bytes: int
    pss_bytes: int | None
    processes: int


class ProcessTree:
    """Some processes and all that they started and will start."""

    def __init__(self, roots: Iterable[int]) -> None:
        self._known: dict[int, psutil.Process] = {}
        for pid in roots:
            try:
                self._known[pid] = psutil.Process(pid)
            except psutil.NoSuchProcess:
                continue
        self._tags = {tag for process in self._known.values() if (tag := _tag(process))}
        self._gone_s = 0.0
        self._spent: dict[int, float] = {}

    def read(self, *, memory: bool = True) -> Usage:
        """Return what the tree has used. A process that ended counts up to its last reading.

        Without `memory` its figures are 0 and None: the kernel stops a process for a while to count its pages, which a load would feel.
        """
        self._grow()
        cpu_s, rss, pss, count = self._gone_s, 0, 0, 0
        pss_known = True
        for pid, process in list(self._known.items()):
            try:
                with process.oneshot():
                    times, resident = process.cpu_times(), process.memory_info().rss
                spent = times.user + times.system
            except psutil.Error:
                lost = self._spent.pop(pid, 0.0)
                self._gone_s += lost
                cpu_s += lost
                del self._known[pid]
                continue
            self._spent[pid] = spent
            cpu_s += spent
            count += 1
            if not memory:
                continue
            rss += resident
            try:
                pss += process.memory_full_info().pss
            except (psutil.Error, AttributeError):
                pss_known = False
        return Usage(cpu_s, rss, pss if memory and pss_known and count else None, count)

    def __len__(self) -> int:
        return len(self._known)

    def __repr__(self) -> str:
        return f"ProcessTree({', '.join(map(str, sorted(self._known)))})"

    def _grow(self) -> None:
        everyone = {process.pid: process for process in psutil.process_iter(["ppid"])}
        known = {pid: process for pid, process in self._known.items() if everyone.get(pid) == process}
        if self._tags:
            known |= {pid: process for pid, process in everyone.items() if pid not in known and _tag(process) in self._tags}
        grew = True
        while grew:
            children = {pid: p for pid, p in everyone.items() if pid not in known and p.info["ppid"] in known}
            known |= children
            grew = bool(children)
        self._known |= known


def of_pid(pid: int) -> ProcessTree:
    """Return a process and all that it started. Raises InvalidArgument where there is none."""
    if not psutil.pid_exists(pid):
        raise InvalidArgument(f"there is no process {pid} on this machine")
    return ProcessTree([pid])


def of_port(host: str, port: int) -> ProcessTree | None:
    """Return the processes of the server that listens there; None where that is another machine, or nobody may look.

    It is the listeners' process group seen from its top: a server's workers listen as often as its first process does.
    """
    if not is_local(host):
        return None
    try:
        connections = psutil.net_connections("tcp")
    except psutil.Error:
        return None
    found = {c.pid for c in connections if c.status == psutil.CONN_LISTEN and c.pid and c.laddr and c.laddr.port == port}
    roots = {_top(pid) for pid in found}
    return ProcessTree(roots) if roots else None


def is_local(host: str) -> bool:
    """Say whether an address is one of this machine."""
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    own = {a.address.split("%")[0] for addresses in psutil.net_if_addrs().values() for a in addresses}
    return any(ipaddress.ip_address(str(ip).split("%")[0]).is_loopback or ip in own for ip in found)


def _top(pid: int) -> int:
    """Return the first process of the group that `pid` is in: the highest ancestor in it, never one of ours."""
    ours = {process.pid for process in psutil.Process().parents()} | {os.getpid()}
    try:
        process, group = psutil.Process(pid), os.getpgid(pid)
        for parent in process.parents():
            if parent.pid in ours or os.getpgid(parent.pid) != group:
                break
            process = parent
    except (psutil.Error, OSError):
        return pid
    return process.pid


def _tag(process: psutil.Process) -> str:
    try:
        return process.environ().get(TAG, "")
    except (psutil.Error, OSError):
        return ""
