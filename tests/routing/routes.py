"""Strategies for traffic: any of its forms, between versions "1" to "4"."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from serving.routing import POINTS, Rule, Shadow, Share, Sticky, Traffic


@st.composite
def shares(draw: st.DrawFn, versions: Sequence[str], least: int = 0) -> dict[str, int]:
    """Return points of each version, POINTS in all."""
    cuts = sorted(draw(st.lists(st.integers(0, POINTS), min_size=len(versions) - 1, max_size=len(versions) - 1)))
    return {v: stop - start for v, start, stop in zip(versions, [0, *cuts], [*cuts, POINTS], strict=True)}


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)


@st.composite
def traffics(draw: st.DrawFn, versions: Sequence[str]) -> Traffic:
    """Return traffic between these versions."""
    version = st.sampled_from(versions)
    split = draw(st.none() | shares(versions))
    sticky = st.builds(Sticky, st.sampled_from(["header", "parameter"]), names) | st.just(Sticky("address"))
    conditions = {"by": st.sampled_from(["header", "parameter"]), "name": names}
    rule = st.builds(Rule, version, how=st.just("equals"), text=names, **conditions) | st.builds(
        Rule, version, how=st.just("matches"), text=st.sampled_from(["a.*", "(x|y)+"]), **conditions
    )
    shadow = st.builds(Shadow, version, st.integers(1, POINTS), st.integers(1, 100))
    return Traffic(
        tuple(Share(v, points) for v, points in split.items()) if split else (),
        draw(st.none() | sticky) if split else None,
        tuple(draw(st.lists(rule, max_size=2))),
        tuple(draw(st.lists(shadow, max_size=2, unique_by=lambda s: s.version))),
    )
