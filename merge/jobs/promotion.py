"""Promotion: an alias moves to what a job made, once a gate lets it through.

A job that dies between building, judging and moving goes on where it was: the version is there and is not built again,
its evaluations are found, and the alias moves in the transaction that ends the job.
"""

from __future__ import annotations

from typing import Any

from graftwork.errors import AliasNotFound, ArtifactNotFound, PromotionRefused
from graftwork.merge.evaluation.gate import Gate, Verdict, judge
from graftwork.merge.evaluation.metric import SCHEME
from graftwork.merge.evaluation.yardstick import find_dataset
from graftwork.merge.jobs.submit import outcome_of
from graftwork.merge.jobs.work import Work
from graftwork.registry.catalog.aliases import AliasMove
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.versions.marks import Mark
from graftwork.registry.versions.version import Version

ACTOR = "promotion"


def built(registry: Registry, name: Name, recipe_digest: str) -> Version | None:
    """The newest version of an artifact that a recipe of this digest made, if there is the artifact and one."""
    try:
        versions = registry.catalog.versions(name)
    except ArtifactNotFound:
        return None
    for version in versions:
        merge = version.metadata.get("merge")
        if isinstance(merge, dict) and merge.get("recipe_digest") == recipe_digest:
            return version
    return None


def settled(registry: Registry, version: Version, alias: str, gate: Gate | None) -> str | None:
    """Why a version that was built before is left where it is; None where it is to be judged and promoted.

    Either the alias is there, or somebody took it off this version, or the gate refuses what was measured before. What
    an evaluator says is asked anew: the operator may have edited it.
    """
    name = f"{version.name}@{alias}"
    entry = registry.aliases.get(version.name).get(alias)
    if entry is not None and entry.digest == version.digest:
        return f"{name} is there"
    taken = _taken_off(registry, version, alias)
    if taken is not None:
        return f"{taken.actor or 'somebody'} took {name} off it"
    if gate is None or gate.dataset is None:
        return None
    dataset, parameters = find_dataset(registry, gate.dataset).digest, {"scheme": SCHEME, "limit": gate.limit}

    def measured(one: Version) -> float:
        return registry.evaluations.find(one.digest, dataset, [gate.metric], parameters)[gate.metric].value

    try:
        current = None if entry is None else _comparable(registry, version.name, entry.digest)
        verdict = judge(gate, version, current, measured)
    except KeyError:
        return None  # not measured yet
    return None if verdict.passed else f"it does not become {name}: {verdict.reason}"


def promote(work: Work, version: Version, alias: str, gate: Gate | None) -> None:
    """Move `alias` of the version's artifact to it, and end the job in the same transaction.

    Raises PromotionRefused, saying why, when the gate does not let it through; AliasConflict when the alias was moved
    meanwhile; and what evaluating raises. The alias is where it was then.
    """
    registry = work.registry
    entry = registry.aliases.get(version.name).get(alias)
    before = None if entry is None else entry.digest
    result: dict[str, Any] = {**outcome_of(version), "alias": alias, "before": before}
    if gate is not None and before != version.digest:
        verdict = judge(gate, version, _comparable(registry, version.name, before), lambda one: _value(work, one, gate))
        work.log(f"{version.ref}: {verdict.reason}")
        if not verdict.passed:
            raise PromotionRefused(ref=version.ref, alias=f"{version.name}@{alias}", reason=verdict.reason)
        result["gate"] = _shown(gate, verdict)
    reason = f"job {work.claim.job.id}"
    with registry.database.write() as session:
        registry.aliases.set(
            version.name, alias, version.digest, expected=before, actor=ACTOR, reason=reason, session=session
        )
        work.finish(session, result)


def _taken_off(registry: Registry, version: Version, alias: str) -> AliasMove | None:
    """The last move of an alias off a version, unless that was a promotion of another one."""
    try:
        moves = registry.aliases.history(version.name, alias)
    except AliasNotFound:
        return None
    left = [move for move in moves if move.before == version.digest]
    return left[-1] if left and left[-1].actor != ACTOR else None


def _comparable(registry: Registry, name: Name, digest: str | None) -> Version | None:
    """What the alias is at; None where that is nothing, or nothing that may be served."""
    if digest is None:
        return None
    version = registry.catalog.resolve(Ref(name, digest))
    return None if any(mark.mark is Mark.QUARANTINED for mark in registry.marks.of(version)) else version


def _value(work: Work, version: Version, gate: Gate) -> float:
    from graftwork.merge.evaluation.by_version import evaluate  # and with it torch, which merging does without

    found = evaluate(
        work.registry,
        work.settings,
        version,
        gate,
        [gate.metric],
        job=work.claim.job.id,
        progress=work.progress,
        stopped=lambda: work.stopping,
    )
    how = "found" if found.known else "measured"
    work.log(f"{version.ref}: {gate.metric} {found.metrics[gate.metric]:.6g} on {gate.label} ({how})")
    return found.metrics[gate.metric]


def _shown(gate: Gate, verdict: Verdict) -> dict[str, Any]:
    return {"metric": gate.metric, "by": gate.label, "value": verdict.value, "current": verdict.current}
