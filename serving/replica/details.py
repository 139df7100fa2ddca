"""What a replica tells gateways about the way it runs a version, beyond signature and platform. Plain values, for HELLO."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from serving.hosting import VersionPlan


def details(plan: VersionPlan, device: str) -> dict[str, Any]:
    """Return runtime, file, device and the batching policy. Times in µs, as clients of ModelConfig read them."""
    policy = plan.batching
    return {
        "runtime": plan.runtime,
        "file": Path(plan.artefact).name,
        "device": device,
        "max_delay_us": round(policy.max_delay_s * 1e6),
        "timeout_us": round(policy.timeout_s * 1e6),
        "max_queue_requests": policy.max_queue_requests,
        "sequence": asdict(plan.sequence) if plan.sequence else None,
    }
