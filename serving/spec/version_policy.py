"""served: which of a model's declared versions run. Findings about the policy that says so."""

from __future__ import annotations

from collections.abc import Iterator

from serving.spec.face import ModelFace
from serving.spec.problem import Finding, Path, dotted, quoted


def served(model: ModelFace) -> list[str]:
    """Return the versions that run, lowest first. Versions must be numbers."""
    versions = sorted(model.versions, key=int)
    policy = model.version_policy
    if policy is None:
        return versions
    if policy.specific:
        return [v for v in versions if v in policy.specific]
    return versions[-(policy.latest or 1) :]


def policy_findings(name: str, model: ModelFace) -> Iterator[Finding]:
    policy = model.version_policy
    if policy is None:
        return
    at: Path = ("models", name, "version_policy")
    if (policy.latest is None) == (not policy.specific):
        yield Finding(at, f"{dotted(at)}: expected one of latest, specific")
    for i, version in enumerate(policy.specific):
        if version not in model.versions:
            path = (*at, "specific", i)
            declared = ", ".join(model.versions)
            message = f"{dotted(path)}: there is no version {quoted(version)}, expected one of {declared}"
            yield Finding(path, message, (("models", name, "versions", version),))
