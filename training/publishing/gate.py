"""The gate: the rules that a candidate must meet before it is published.

The candidate must predict better than a constant, meet the floors, accept the requests and return
the classes of the published version, and not be worse than that version on rows that neither was
trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from training.errors import RefusedError
from training.evaluation.candidate import Candidate
from training.evaluation.metric_names import LOWER_IS_BETTER
from training.publishing import schema
from training.publishing.comparison import Baseline, IncomparableError
from training.publishing.manifest import Comparison, Verdict

CHANCE_AUC = 0.5


@dataclass(frozen=True)
class Rules:
    """The rules that a candidate must meet.

    Attributes:
        floors: minimum of each metric by name; maximum if lower is better.
        tolerance: how much better the published version may be, in log-loss or AUC.
        allow_schema_change: whether the candidate may require callers to change their code.
    """

    floors: Mapping[str, float] = field(default_factory=dict)
    tolerance: float = 0.01
    allow_schema_change: bool = False


def judge(candidate: Candidate, published: Path | None, rules: Rules, force: bool) -> Verdict:
    """Judge a candidate by the rules and against the published version.

    `force` accepts any metrics; a schema change still needs `allow_schema_change`.

    Raises:
        RefusedError: a rule is not met.
    """
    baseline, comparison, not_compared = None, None, ""
    changes: tuple[str, ...] = ()
    if published is not None:
        try:
            baseline = Baseline(published)
            changes = schema.changes(baseline.schema, schema.from_model(candidate.model))
            comparison = baseline.compare(candidate)
        except IncomparableError as error:
            not_compared = f"version {published.name}: {error}"
    if changes and not rules.allow_schema_change:
        raise RefusedError(
            f"callers of version {published.name if published else ''} would break: "
            f"{'; '.join(changes)}. --allow-schema-change publishes the candidate anyway"
        )
    is_reweighted = candidate.manifest.is_reweighted
    by_auc = is_reweighted or (baseline is not None and baseline.is_reweighted)
    reason = (
        (_check_chance(candidate) if is_reweighted else _check_constant(candidate))
        or _check_floors(candidate, rules)
        or _check_published(comparison, "auc" if by_auc else "log_loss", rules.tolerance)
    )
    if reason and not force:
        raise RefusedError(reason)
    return Verdict(
        passed=not reason,
        reason=reason,
        forced=bool(reason),
        rule=_rule_text(is_reweighted, by_auc, comparison is not None),
        comparison=comparison,
        not_compared=not_compared,
        schema_changes=changes,
    )


def _rule_text(is_reweighted: bool, by_auc: bool, is_compared: bool) -> str:
    published = " and the published version" if is_compared else ""
    if is_reweighted:
        return f"judged by AUC against chance{published}, because class weights shift probabilities"
    if by_auc and is_compared:
        return (
            "judged by log-loss against a constant, and by AUC against the published version, "
            "whose probabilities are shifted by class weights"
        )
    return f"judged by log-loss against a constant{published}"


# Each check returns the reason to refuse the candidate, or "".
def _check_chance(candidate: Candidate) -> str:
    auc = candidate.model.metrics["auc"]
    return "" if auc > CHANCE_AUC else f"auc {auc:.4f} is no better than chance, {CHANCE_AUC}"


def _check_constant(candidate: Candidate) -> str:
    rows, log_loss = candidate.held_out, candidate.model.metrics["log_loss"]
    rate = float(np.average(rows.labels, weights=rows.weights))
    constant = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    if log_loss < constant:
        return ""
    return (
        f"log_loss {log_loss:.4f} is no better than {constant:.4f}, "
        f"that of always predicting {rate:.4f}"
    )


def _check_floors(candidate: Candidate, rules: Rules) -> str:
    for name, floor in rules.floors.items():
        value = candidate.model.metrics[name]
        if name in LOWER_IS_BETTER and not value <= floor:
            return f"{name} {value:.4f} is above its limit {floor:g}"
        if name not in LOWER_IS_BETTER and not value >= floor:
            return f"{name} {value:.4f} is below its floor {floor:g}"
    return ""


def _check_published(comparison: Comparison | None, name: str, tolerance: float) -> str:
    if comparison is None:
        return ""
    ours, theirs = comparison.metrics[name], comparison.published_metrics[name]
    deficit = ours - theirs if name in LOWER_IS_BETTER else theirs - ours
    if deficit <= tolerance:
        return ""
    return (
        f"{name} {ours:.4f} is worse than the published version's {theirs:.4f} "
        f"on the same rows by more than {tolerance:g}"
    )
