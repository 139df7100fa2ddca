"""SlotClaim: the gateway's end of `edge.sock`. It outlives keepers: when one dies, it hands the listeners to the next.

    claim = await SlotClaim.claim(run_dir, "gateway-a")
    server.start([*claim.listeners])
    async for change in claim:             # Adopt: accept on it too. Release: stop accepting, close your copy
        ...

The claim keeps a duplicate of each listener for the next keeper; the gateway may close its own at any time.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from serving.edge.config import EDGE_SOCKET
from serving.edge.lane import Lane, Message
from serving.edge.reports import Reports, Samples
from serving.errors import ServingError, Unavailable
from serving.statistics import VersionStatistics

NO_STATISTICS = "statistics are not there at the moment: the keeper of the edge does not answer"
_STATISTICS_S = 4.0
_RETRY_S = 0.05
_SLOWEST_RETRY_S = 0.5


class Adopt(NamedTuple):
    """Accept on this listener too; it is the receiver's to close. TCP; a Unix one only when the slot's own path had to be made anew."""

    number: int
    listener: socket.socket


class Release(NamedTuple):
    """Stop accepting on the listener adopted under this number. Never shut it down: it is shared."""

    number: int


Change = Adopt | Release


class SlotClaim:
    """One held slot. Belongs to the loop that claimed it.

    slot        number of the slot
    listeners   the slot's own: Unix, and one for each TCP port that does not go through HAProxy; the gateway's to close
    """

    def __init__(self, run_dir: str, name: str) -> None:
        self._path = str(Path(run_dir) / EDGE_SOCKET)
        self._name = name
        self._lane: Lane | None = None
        self._tcp: dict[int, socket.socket] = {}
        self._changes: asyncio.Queue[Change | None] = asyncio.Queue()
        self._granted: asyncio.Future[None] | None = None
        self._reconnecting: asyncio.Task[None] | None = None
        self._reports: Reports | None = None
        self._asked = 0
        self._asking: dict[int, asyncio.Future[list[Any]]] = {}
        self._draining = False
        self._closed = False
        self.slot = -1
        self.listeners: list[socket.socket] = []

    @classmethod
    async def claim(cls, run_dir: str, name: str, timeout_s: float = 30.0) -> SlotClaim:
        """Return a claim on a free slot; waits for a keeper and for a slot. Raises Unavailable when the time is over."""
        self = cls(run_dir, name)
        last = "no keeper listens on " + self._path
        deadline = asyncio.get_running_loop().time() + timeout_s
        while (left := deadline - asyncio.get_running_loop().time()) > 0:
            try:
                await asyncio.wait_for(self._connect({"claim": "gateway", "pid": os.getpid(), "name": name}, []), left)
                return self
            except OSError:
                await asyncio.sleep(min(_RETRY_S, left))
            except TimeoutError:
                break
            except Unavailable as refusal:
                last = refusal.message
                await asyncio.sleep(min(_RETRY_S * 4, left))
        self.close()
        raise Unavailable(f"no slot at the edge after {timeout_s:g} s: {last}")

    def __aiter__(self) -> SlotClaim:
        return self

    async def __anext__(self) -> Change:
        """Return the next change of the listeners; ends when the claim is closed or its slot is lost."""
        change = await self._changes.get()
        if change is None:
            self._changes.put_nowait(None)
            raise StopAsyncIteration
        return change

    def report_from(self, samples: Samples) -> None:
        """Report what `samples` gives, at once, every second and whenever the keeper wants it, until `close`."""
        self._reports = Reports("gateway", samples, self._send_report)

    def _send_report(self, samples: Sequence[Sequence[Any]], number: int) -> None:
        if self._lane is not None and (number or self._lane.idle):
            self._lane.send({"report": samples, "asked": number})

    async def statistics(self, model: str = "") -> dict[tuple[str, str], VersionStatistics]:
        """Return what all gateways together have counted by now, by (model, version); of one model, or "" of all.

        Raises Unavailable where there is no keeper, or it does not answer in time.
        """
        if self._lane is None or self._lane.closed:
            raise Unavailable(NO_STATISTICS, retry_after_s=1.0)
        self._asked += 1
        number = self._asked
        answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._asking[number] = answer
        self._lane.send({"collect": number, "model": model})
        try:
            found = await asyncio.wait_for(answer, _STATISTICS_S)
        except TimeoutError:
            raise Unavailable(NO_STATISTICS, retry_after_s=1.0) from None
        finally:
            del self._asking[number]
        return {(name, version): VersionStatistics.from_json(value) for name, version, value in found}

    async def leave(self) -> None:
        """Give the slot back after a last report: what was counted since the one before would be lost."""
        if self._reports is not None:
            self._reports.stop()
            with suppress(ServingError):  # what it counts may have stopped
                await self._reports.report()
        if self._lane is not None:
            await self._lane.flushed()
        self.close()

    def draining(self) -> None:
        """Tell the keeper that this gateway takes no new traffic; it moves the TCP listeners to others at once.

        From here on no Adopt comes out of the iteration, not even one that was on its way.
        """
        self._draining = True
        self._drop_changes()
        if self._lane is not None:
            self._lane.send({"draining": True})

    def close(self) -> None:
        """Give the slot back."""
        if self._closed:
            return
        self._closed = True
        if self._reports is not None:
            self._reports.stop()
        if self._reconnecting is not None:
            self._reconnecting.cancel()
        if self._lane is not None:
            self._lane.close()
        for held in self._tcp.values():
            held.close()
        self._tcp.clear()
        self._drop_changes()
        self._changes.put_nowait(None)

    def _drop_changes(self) -> None:
        while not self._changes.empty():
            change = self._changes.get_nowait()
            if isinstance(change, Adopt):
                change.listener.close()

    async def _connect(self, hello: Message, sockets: list[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, self._path)
        except BaseException:
            sock.close()
            raise
        self._granted = loop.create_future()
        self._lane = Lane(sock, self._receive, self._lost)
        self._lane.send(hello, sockets)
        try:
            await self._granted
        except BaseException:
            self._granted = None
            self._lane.close()
            self._lane = None
            raise
        self._granted = None

    def _receive(self, message: Message, sockets: list[socket.socket]) -> None:
        if "slot" in message:
            if self.slot < 0:
                self.slot, self.listeners = int(message["slot"]), sockets
                for number, listener in zip(message.get("tcp", []), sockets, strict=False):
                    self._hold(int(number), listener)
            else:
                # the path of our Unix socket had gone: this one is bound there anew
                for listener in sockets:
                    self._changes.put_nowait(Adopt(self.slot, listener))
            self._settle(None)
        elif "want" in message:
            if self._reports is not None:
                self._reports.want(int(message["want"]))
        elif "collected" in message:
            self._take_statistics(message)
        elif "error" in message:
            self._settle(Unavailable(str(message["error"])))
        elif "adopt" in message and sockets:
            number = int(message["adopt"])
            self._hold(number, sockets[0])
            if self._draining:
                sockets[0].close()
            else:
                self._changes.put_nowait(Adopt(number, sockets[0]))
        elif "release" in message:
            number = int(message["release"])
            self._let_go(number)
            self._changes.put_nowait(Release(number))

    def _take_statistics(self, message: Message) -> None:
        answer = self._asking.get(int(message["collected"]))
        if answer is None or answer.done():
            return
        if "refused" in message:
            answer.set_exception(Unavailable(str(message["refused"]), retry_after_s=1.0))
        else:
            answer.set_result(message["statistics"])

    def _hold(self, number: int, listener: socket.socket) -> None:
        self._let_go(number)
        self._tcp[number] = listener.dup()

    def _let_go(self, number: int) -> None:
        held = self._tcp.pop(number, None)
        if held is not None:
            held.close()

    def _settle(self, error: Exception | None) -> None:
        if self._granted is None or self._granted.done():
            return
        if error is None:
            self._granted.set_result(None)
        else:
            self._granted.set_exception(error)

    def _lost(self) -> None:
        self._settle(ConnectionResetError("the keeper closed the connection"))
        for answer in self._asking.values():
            if not answer.done():
                answer.set_exception(Unavailable(NO_STATISTICS, retry_after_s=1.0))
        if self.slot >= 0 and not self._closed and self._reconnecting is None:
            self._reconnecting = asyncio.get_running_loop().create_task(self._reconnect())

    async def _reconnect(self) -> None:
        """Knock until a keeper answers, then hand it what this gateway holds."""
        wait_s = _RETRY_S
        while not self._closed:
            numbers = sorted(self._tcp)
            hello: Message = {"claim": "gateway", "pid": os.getpid(), "name": self._name}
            hello |= {"reclaim": self.slot, "tcp": numbers, "draining": self._draining}
            try:
                await self._connect(hello, [self._tcp[n] for n in numbers])
            except OSError:
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 1.2, _SLOWEST_RETRY_S)
                continue
            except Unavailable:
                # another has the slot: this gateway cannot be reached through the edge and must leave
                self._changes.put_nowait(None)
                return
            if self._lane is not None and not self._lane.closed:
                self._reconnecting = None
                return
