"""What two bundles answer differently, told from their states without running a head."""

from typing import Any

import numpy as np
import numpy.typing as npt

from store.client import Bundle
from store.manifest import model_files

#: Users compared at a time.
STEP = 16_384
_MODEL = ("aggregator", "encoder", "head", "llm", "prefix", "tasks", "as_of", "valid_until", "version")
Pairs = npt.NDArray[np.void]


def differences(one: Bundle, other: Bundle) -> dict[str, Any]:
    """Users by what became of them from ``one`` to ``other``, and which parts of the manifest differ.

    The erased are among the vanished, if ``one`` knew them.

    Returns:
        ``appeared, vanished, erased, changed, same`` (counts of users), ``model`` (names of what differs).

    Raises:
        CorruptError: a block that is read is not what its manifest says.
    """
    before, after = _users(one), _users(other)
    both = np.intersect1d(before, after, assume_unique=True)
    comparable = one.manifest["states"]["spec"] == other.manifest["states"]["spec"]
    changed = 0
    for start in range(0, len(both), STEP):
        some = both[start : start + STEP]
        changed += _changed(one, other, some) if comparable else len(some)
    lost = np.setdiff1d(before, after, assume_unique=True)
    model = [name for name in _MODEL if one.manifest.get(name) != other.manifest.get(name)]
    shared = [name for name in model_files(other.manifest["llm"]) if name in model_files(one.manifest["llm"])]
    model += [name for name in shared if one.model_file(name) != other.model_file(name)]
    return {
        "one": one.path.name,
        "other": other.path.name,
        "appeared": len(after) - len(both),
        "vanished": len(lost),
        "erased": len(other.layers[0].erased - one.layers[0].erased),
        "changed": changed,
        "same": len(both) - changed,
        "model": model,
    }


def _pairs(keys: npt.NDArray[np.int64], checks: npt.NDArray[np.int64]) -> Pairs:
    pairs = np.empty(len(keys), [("key", "i8"), ("check", "i8")])
    pairs["key"], pairs["check"] = keys, checks
    return pairs


def _users(bundle: Bundle) -> Pairs:
    """Key and check of everyone the bundle knows."""
    known: Pairs = _pairs(np.zeros(0, np.int64), np.zeros(0, np.int64))
    for layer in reversed(bundle.layers):
        gone = np.array(sorted(layer.gone), np.int64).reshape(-1, 2)
        known = np.setdiff1d(known, _pairs(gone[:, 0], gone[:, 1]))
        known = np.union1d(known, _pairs(layer.keys, np.asarray(layer.checks)))
    return known


def _changed(one: Bundle, other: Bundle, users: Pairs) -> int:
    (a, _), (b, _) = (bundle.states_of(users["key"], users["check"]) for bundle in (one, other))
    lengths = np.diff(a.offsets)
    differs = lengths != np.diff(b.offsets)
    owner_a, owner_b = (np.repeat(np.arange(len(users)), np.diff(x.offsets)) for x in (a, b))
    same_length = ~differs
    for column in one.spec.columns:
        left, right = a.columns[column.name], b.columns[column.name]
        if column.per == "item":
            keep_a, keep_b = same_length[owner_a], same_length[owner_b]
            unlike = _unlike(left[keep_a], right[keep_b])
            differs[owner_a[keep_a][unlike]] = True
        else:
            differs |= _unlike(left, right)
    return int(differs.sum())


def _unlike(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Rows that differ; infinities of one sign are alike."""
    return (left != right).reshape(len(left), -1).any(1) if len(left) else np.zeros(0, bool)
