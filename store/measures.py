"""Measures of how far states moved: by angle within one space, and by what does not depend on the space's axes across two."""

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
#: Neighbours of the overlap.
NEIGHBOURS = 10


def cosine_shift(before: Vectors, after: Vectors) -> npt.NDArray[np.float32]:
    """``1 − cos`` of each pair of rows ``[n, d]``, in 0 … 2; 0 where both are equal, 1 where one of them is zero, NaN where not finite."""
    norms = np.linalg.norm(before, axis=1).astype(np.float64) * np.linalg.norm(after, axis=1)
    dots = np.einsum("nd,nd->n", before, after, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = 1 - np.where(norms == 0, 0.0, dots / norms)
    shift = np.where(np.isnan(shift), np.nan, np.clip(shift, 0, 2))
    return np.where((before == after).all(1), 0.0, shift).astype(np.float32)


def neighbour_overlap(before: Vectors, after: Vectors, k: int = NEIGHBOURS) -> float:
    """Mean share of each row's ``k`` nearest rows, by cosine, that are the same in both ``[n, d]`` and ``[n, d']``; 1 below 3 rows.

    Does not depend on rotation or scale, so the two may be of different spaces. Memory is ``n²``.
    """
    n = len(before)
    k = min(k, n - 2)
    if k < 1:
        return 1.0
    near = np.zeros((2, n, n), bool)
    # Rounded, so that equal rows are equally near whatever the order of the sums; ties go by place, the same in both.
    tie = np.arange(n) * (0.5e-9 / n)
    for place, vectors in zip(near, (before, after), strict=True):
        unit = np.nan_to_num(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30))
        distance = tie - np.round(unit.astype(np.float64) @ unit.T.astype(np.float64), 9)
        np.fill_diagonal(distance, np.inf)
        np.put_along_axis(place, np.argpartition(distance, k, axis=1)[:, :k], True, axis=1)
    return float((near[0] & near[1]).sum() / (n * k))


def alignment(before: Vectors, after: Vectors) -> float:
    """Linear CKA of two sets of rows ``[n, d]`` and ``[n, d']``, in 0 … 1: 1 for rotations, shifts and scalings of one another."""
    if len(before) < 2:
        return 1.0
    x, y = (np.nan_to_num(v).astype(np.float64) - np.nan_to_num(v).mean(0, dtype=np.float64) for v in (before, after))
    spread = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(x.T @ y) ** 2 / spread) if spread > 0 else 1.0
