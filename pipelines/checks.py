"""Checks before promotion: figures of a new version and the lines they must not cross.

Their cost follows the users who changed, and the panel.
"""

from collections.abc import Sequence

from pipelines.drift import domain_auc
from pipelines.update import Shifted
from schemas.config import CheckConfig
from schemas.records import CheckResult
from store.comparison import Comparison


def check_version(
    config: CheckConfig, users: int, covered: int, shards: Sequence[Shifted], drift: Comparison | None, prefix: float | None
) -> tuple[CheckResult, ...]:
    """Every check's figure.

    Coverage: users over ``covered``, the users before. Bad states: share of changed states with NaN or infinity; zero states: of
    those whose vector is zero. Norms: the largest changed state over the median one. Prefix: ``prefix_ratio``, where there is a head.

    From the parent (``drift``, where there is one): quantiles of 1 − cosine of the changed users, and on the panel the neighbour
    overlap@10 and the domain classifier's AUC; of fewer than ``min_users`` users, neither says anything and both are left out.
    """
    changed = sum(s.changed for s in shards)
    median = sum(s.norm_median * s.changed for s in shards) / max(1, changed)
    largest = max((s.norm_max for s in shards), default=0.0)
    found = [
        _least("coverage", users / covered if covered else 1.0, config.min_coverage),
        _most("bad_states", sum(s.bad for s in shards) / max(1, changed), config.max_bad_states),
        _most("zero_states", sum(s.zero for s in shards) / max(1, changed), config.max_zero_states),
        _most("norm_ratio", largest / median if median > 0 else 1.0, config.max_norm_ratio),
    ]
    if prefix is not None:
        found.append(_most("prefix_ratio", min(prefix, 1e9), config.max_prefix_ratio))
    if drift and len(drift.shifts) >= config.min_users:
        quantiles = drift.quantiles()
        found.append(_most("shift_p50", quantiles["p50"], config.max_shift_p50))
        found.append(_most("shift_p99", quantiles["p99"], config.max_shift_p99))
    if drift and len(drift.panel) >= config.min_users:
        found.append(_least("neighbour_overlap", drift.overlap, config.min_neighbour_overlap))
        found.append(_most("domain_auc", domain_auc(drift.before, drift.after, seed=0), config.max_domain_auc))
    return tuple(found)


def complaint(checks: Sequence[CheckResult]) -> str:
    """Which figure crossed which line."""
    return "; ".join(f"{c.name} is {c.value:.4g}, the line is {c.limit:.4g}" for c in checks if not c.passed)


def _most(name: str, value: float, limit: float) -> CheckResult:
    return CheckResult(name=name, value=value, limit=limit, passed=value <= limit)


def _least(name: str, value: float, limit: float) -> CheckResult:
    return CheckResult(name=name, value=value, limit=limit, passed=value >= limit)
