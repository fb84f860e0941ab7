"""Checks before promotion: figures of a new version and the lines they must not cross."""

from collections.abc import Sequence

from pipelines.update import Shifted
from schemas.config import CheckConfig
from schemas.records import CheckResult, VersionRecord


def check_version(config: CheckConfig, users: int, parent: VersionRecord | None, shards: Sequence[Shifted]) -> tuple[CheckResult, ...]:
    """Every check's figure.

    Coverage: users over the parent's users. Bad states: share of changed states with NaN or infinity. Norms: the largest
    changed state over the median one.
    """
    changed = sum(s.changed for s in shards)
    median = sum(s.norm_median * s.changed for s in shards) / max(1, changed)
    largest = max((s.norm_max for s in shards), default=0.0)
    coverage = users / parent.users if parent and parent.users else 1.0
    bad = sum(s.bad for s in shards) / max(1, changed)
    ratio = largest / median if median > 0 else 1.0
    return (
        CheckResult(name="coverage", value=coverage, limit=config.min_coverage, passed=coverage >= config.min_coverage),
        CheckResult(name="bad_states", value=bad, limit=config.max_bad_states, passed=bad <= config.max_bad_states),
        CheckResult(name="norm_ratio", value=ratio, limit=config.max_norm_ratio, passed=ratio <= config.max_norm_ratio),
    )


def complaint(checks: Sequence[CheckResult]) -> str:
    """Which figure crossed which line."""
    return "; ".join(f"{c.name} is {c.value:.4g}, the line is {c.limit:.4g}" for c in checks if not c.passed)
