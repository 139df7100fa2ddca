"""The edge of one node: HAProxy, the listening sockets, metrics. `EdgeKeeper` runs it, `SlotClaim` is a gateway's end of it."""

from serving.edge.claim import Adopt, Change, Release, SlotClaim
from serving.edge.config import EdgeConfig, EdgeMode
from serving.edge.keeper import EdgeKeeper
from serving.edge.reporter import Reporter

__all__ = ["Adopt", "Change", "EdgeConfig", "EdgeKeeper", "EdgeMode", "Release", "Reporter", "SlotClaim"]
