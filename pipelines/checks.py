"""Checks before promotion: figures of a new version and the lines they must not cross.

Their cost follows the users who changed, and the panel.
"""

from collections.abc import Sequence

from pipelines.drift import domain_auc
from pipelines.update import Shifted
from schemas.config import CheckConfig
from schemas.records import CheckResult
from store.comparison import Comparison

#: What a figure that crosses its line usually means, and what to look at: entries of docs/runbook.md.
CAUSES = {
    "coverage": "Users are gone who were there before: a source deleted all of their events. Look at the ingests since the parent "
    "(`tapstate ui`) and at what the source did.",
    "bad_states": "Arithmetic broke: an encoder or a checkpoint gives NaN, on this device or with these packages. The report shows what "
    "changed since the night before. Once it is mended: `tapstate refresh --full`.",
    "zero_states": "Users with events whose vector is nothing: the encoder makes nothing of their texts. Look at them: `tapstate sql`.",
    "norm_ratio": "One user's state is far larger than the others'. Of those who moved most, as the report names them, `tapstate show "
    "user-… --version N` tells the id, and `tapstate sql \"SELECT ingest, ts, value, text FROM events WHERE user_id = 'ID' "
    'ORDER BY ingest DESC, ts DESC LIMIT 20"` the events that came last: look at the numbers in `value` first.',
    "prefix_ratio": "Prefixes are too loud or too faint for the LLM, though the states may be fine: the head does not fit them. `tapstate "
    "train`, or `train --head-only --llm` for this LLM.",
    "shift_p50": "Half of the changed users moved far in one night. Did texts change their form (another `--map`, another language), or "
    "was the night a long one after a pause? The report shows who moved most.",
    "shift_p99": "A few users moved as far as one can. Look at the movers on the report and at their events of that night, found "
    "as for `norm_ratio`.",
    "neighbour_overlap": "Who is like whom changed for the fixed panel of users, even where each moved little: the space turned. "
    "As for `shift_p50`.",
    "domain_auc": "A classifier tells this night's states from the last one's: a systematic difference, even a small one. As for "
    "`shift_p50`; then the encoder's device and packages.",
}


def check_version(
    config: CheckConfig,
    users: int,
    covered: int,
    shards: Sequence[Shifted],
    drift: Comparison | None,
    prefix: float | None,
    inherited: Sequence[CheckResult] = (),
) -> tuple[CheckResult, ...]:
    """Every check's figure.

    Coverage: users over ``covered``, the users before. Bad states: share of changed states with NaN or infinity; zero states: of
    those whose vector is zero. Norms: the largest changed state over the median one. Prefix: ``prefix_ratio``, where there is a head.

    Where versions before this one failed (``inherited``, their checks), their states are still here: of bad states, zero states and norms
    the worst figure counts.

    From the last sound version (``drift``, where there is one): quantiles of 1 − cosine of the changed users, and on
    the panel the neighbour overlap@10 and the domain classifier's AUC; of fewer than ``min_users`` users, neither says anything and both
    are left out.
    """

    def worst(name: str, value: float) -> float:
        return max([value, *(check.value for check in inherited if check.name == name)])

    changed = sum(s.changed for s in shards)
    median = sum(s.norm_median * s.changed for s in shards) / max(1, changed)
    largest = max((s.norm_max for s in shards), default=0.0)
    found = [
        _least("coverage", users / covered if covered else 1.0, config.min_coverage),
        _most("bad_states", worst("bad_states", sum(s.bad for s in shards) / max(1, changed)), config.max_bad_states),
        _most("zero_states", worst("zero_states", sum(s.zero for s in shards) / max(1, changed)), config.max_zero_states),
        _most("norm_ratio", worst("norm_ratio", largest / median if median > 0 else 1.0), config.max_norm_ratio),
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
