"""Settles what a version takes and gives: the declared signature, the artefact's own, or both where they agree. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from serving.errors import InvalidArgument, ServingError, SignatureMismatch
from serving.hosting import VersionPlan
from serving.tensor import Signature, TensorSpec


def settle(plan: VersionPlan, found: Signature | None, *, names: bool) -> Signature:
    """Return the signature to serve. `found` is the artefact's own, if it has one; `names`: its names count (else only order).

    Raises InvalidArgument where there is none, SignatureMismatch where the two differ or the batching contradicts them.
    """
    max_batch_size = plan.batching.max_batch_size
    declared = plan.signature
    if declared is None:
        if found is None:
            raise InvalidArgument(f"'{plan.key}': {plan.artefact} does not say what it takes and gives, so a signature must be declared")
        declared = found
    if declared.batched != (max_batch_size > 0):
        raise SignatureMismatch(
            f"'{plan.key}': signature says max_batch_size {declared.max_batch_size}, but batching says {max_batch_size}"
        )
    signature = replace(declared, max_batch_size=max_batch_size)
    if found is not None and found is not declared:
        _agree(plan, "input", signature.inputs, found.inputs, names)
        _agree(plan, "output", signature.outputs, found.outputs, names)
    return signature


def parse(plan: VersionPlan, value: Any) -> Signature:
    """Return the `signature` that a user's class carries: a Signature, or plain values in the form of `Signature.to_json`."""
    if isinstance(value, Signature):
        signature = value
    else:
        try:
            signature = Signature.from_json({"max_batch_size": 0, **value})
        except ServingError as error:
            raise InvalidArgument(f"'{plan.key}': signature in {plan.artefact}: {error.message}") from None
        except (KeyError, TypeError, AttributeError):
            raise InvalidArgument(
                f"'{plan.key}': signature in {plan.artefact} is not a Signature nor of the form "
                '{"inputs": [{"name": "x", "dtype": "FP32", "shape": [4]}], "outputs": [...]}'
            ) from None
    return replace(signature, max_batch_size=plan.batching.max_batch_size)


def _agree(plan: VersionPlan, what: str, declared: Sequence[TensorSpec], found: Sequence[TensorSpec], names: bool) -> None:
    if len(declared) != len(found):
        raise SignatureMismatch(f"'{plan.key}': {len(declared)} {what}s declared, but {plan.artefact} has {len(found)}")
    if names:
        by_name = {s.name: s for s in found}
        missing = [s.name for s in declared if s.name not in by_name]
        if missing:
            raise SignatureMismatch(f"'{plan.key}': {what} '{missing[0]}' declared, but {plan.artefact} has {', '.join(by_name)}")
        found = [by_name[s.name] for s in declared]
    for d, f in zip(declared, found, strict=True):
        if d.dtype is not f.dtype:
            raise SignatureMismatch(f"'{plan.key}': {what} '{d.name}' declared as {d.dtype.label}, but {plan.artefact} has {f.dtype.label}")
        same = len(d.shape) == len(f.shape) and all(-1 in (a, b) or a == b for a, b in zip(d.shape, f.shape, strict=True))
        if not same:
            raise SignatureMismatch(f"'{plan.key}': {what} '{d.name}' declared as {list(d.shape)}, but {plan.artefact} has {list(f.shape)}")
