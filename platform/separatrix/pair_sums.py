"""Symmetry functions as sums over neighbours and over pairs of neighbours, for many frames at once, in torch.

Displacements are taken and folded in double precision, everything after them is in single precision. Of every pair,
``x = (1 + lambda cos theta)/2`` lies in [0, 1] and is raised to its powers by repeated squaring: nothing overflows. A
neighbour makes no pair with itself: the diagonal is emptied first, so that no sum is a difference of larger ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from separatrix.records import Float32Array, FloatArray
from separatrix.surroundings import ETA_G2, ETA_G5, LAMBDAS, ZETAS, Surroundings, cutoff_exponent
from separatrix.threads import single_thread

_DISPLACEMENTS_AT_ONCE: Final = {"cpu": 2**15, "cuda": 2**22}
_PAIRS_AT_ONCE: Final = {"cpu": 2**17, "cuda": 2**26}
"""Elements of the largest arrays: on a processor they fit into the cache, on a GPU they fill the device."""

_TOGETHER: Final = 1e-9
"""nm; a neighbour as near as that has no direction."""


def is_there(device: str) -> bool:
    """Return whether torch can compute on a device."""
    try:
        torch.empty(1, device=device)
    except (AssertionError, RuntimeError):  # a build for processors; no such device, or no memory left there
        return False
    return True


def symmetry_functions(
    positions: FloatArray, cells: NDArray[np.float64], surroundings: Sequence[Surroundings], device: str
) -> Float32Array:
    """Return the normalised symmetry functions of many frames.

    Parameters
    ----------
    positions : (n_frames, n_atoms, 3), nm
    cells : (n_frames, 6), ax, bx, by, cx, cy, cz of reduced box vectors, nm; or (n_frames, 0) without a box
    surroundings : what to compute
    device : of torch, such as ``cpu`` or ``cuda:0``

    Returns
    -------
    (n_frames, n) float32
        For each of the surroundings, centre and r_s: G2, then G5 for each zeta and lambda.

    Raises
    ------
    MemoryError
        If the device has too little.
    """
    if not len(positions):
        return np.empty((0, sum(item.n_columns for item in surroundings)), dtype=np.float32)
    largest = max(len(item.centers) * len(item.neighbors) for item in surroundings)
    n_frames = max(1, _DISPLACEMENTS_AT_ONCE[torch.device(device).type] // largest)
    parts: list[Tensor] = []
    try:
        with single_thread(), torch.inference_mode():
            for start in range(0, len(positions), n_frames):
                frames = torch.as_tensor(positions[start : start + n_frames], device=device)
                boxes = torch.as_tensor(cells[start : start + n_frames], device=device)
                columns = [_around(frames, boxes, item).flatten(1) for item in surroundings]
                parts.append(torch.cat(columns, dim=1).cpu())
    except torch.OutOfMemoryError as error:
        raise MemoryError(f"on {device}, for symmetry functions") from error
    return torch.cat(parts).numpy()


def _around(frames: Tensor, cells: Tensor, item: Surroundings) -> Tensor:
    """Return the functions of one set of surroundings, (n_frames, n_centers, n_r_s * 11)."""
    arrows, distances, order, counts = _neighbors(frames, cells, item)
    shells = torch.tensor(item.r_s, dtype=torch.float32, device=frames.device)[:, None]
    normalisation = torch.as_tensor(item.normalisation, dtype=torch.float32, device=frames.device)
    result = torch.empty(len(distances), len(item.r_s), 1 + len(ZETAS) * len(LAMBDAS), device=frames.device)
    for rows, n_neighbors in _batches(counts, _PAIRS_AT_ONCE[frames.device.type]):
        r = distances[rows, None, :n_neighbors]
        cutoff = torch.reciprocal(1.0 + torch.exp(cutoff_exponent(r, item.r_cutoff))) * (r < item.r_cutoff)
        squares = torch.square(r - shells)
        result[rows, :, 0] = (torch.exp(-ETA_G2 * squares) * cutoff).sum(dim=2)
        weights = torch.exp(-ETA_G5 * squares) * cutoff
        result[rows, :, 1:] = _pairs(arrows[rows, :n_neighbors], weights)
    ordered = torch.empty_like(result)
    ordered[order] = result * normalisation
    return ordered.view(len(frames), len(item.centers), -1)


def _neighbors(frames: Tensor, cells: Tensor, item: Surroundings) -> tuple[Tensor, Tensor, Tensor, list[int]]:
    """Return unit vectors to the neighbours within the cut-off, (n, most, 3), and distances (n, most), nm.

    Rows are pairs of frame and centre, by number of neighbours; what a row lacks is as far as the cut-off. Then follow
    the pair that each row belongs to, and its number of neighbours.
    """
    centers = torch.as_tensor(item.centers, device=frames.device)
    neighbors = torch.as_tensor(item.neighbors, device=frames.device)
    places = frames.double().unbind(dim=2)
    vectors = [axis[:, None, neighbors] - axis[:, centers, None] for axis in places]
    vectors = _nearest(vectors, cells) if cells.shape[1] else vectors
    squared = vectors[0] * vectors[0] + vectors[1] * vectors[1] + vectors[2] * vectors[2]
    inside = ((squared < item.r_cutoff**2) & (neighbors != centers[:, None])).flatten(0, 1)
    unordered = inside.sum(dim=1)
    counts, order = unordered.sort(stable=True)
    found = counts.tolist()
    pair = inside.flatten().nonzero()[:, 0]
    row = pair // len(neighbors)
    column = torch.arange(len(row), device=frames.device) - (unordered.cumsum(0) - unordered)[row]
    row = order.argsort()[row]
    r = torch.sqrt(squared.flatten()[pair])
    distances = torch.full((len(found), found[-1]), item.r_cutoff, dtype=torch.float32, device=frames.device)
    distances[row, column] = r.float()
    arrows = torch.zeros(*distances.shape, 3, device=frames.device)
    units = [axis.flatten()[pair] / r.clamp_min(_TOGETHER) for axis in vectors]
    arrows[row, column] = torch.stack(units, dim=1).float()
    return arrows, distances, order, found


def _nearest(vectors: Sequence[Tensor], cells: Tensor) -> list[Tensor]:
    """Return displacements x, y, z, each (n_frames, n_centers, n_neighbors), folded along c, b and a in turn.

    That is the nearest image of whatever is within half the shortest of ax, by and cz, and longer for anything else.
    """
    ax, bx, by, cx, cy, cz = cells.T[:, :, None, None]
    x, y, z = vectors
    shift = torch.round(z / cz)
    x, y, z = x - shift * cx, y - shift * cy, z - shift * cz
    shift = torch.round(y / by)
    x, y = x - shift * bx, y - shift * by
    return [x - torch.round(x / ax) * ax, y, z]


def _batches(counts: Sequence[int], pairs: int) -> list[tuple[slice, int]]:
    """Return consecutive rows whose matrices of pairs have so many elements together, and their most neighbours."""
    edges = [0]
    for row, count in enumerate(counts):  # ascending
        if row > edges[-1] and (row - edges[-1] + 1) * count**2 > pairs:
            edges.append(row)
    return [(slice(start, end), counts[end - 1]) for start, end in pairwise([*edges, len(counts)])]


def _pairs(arrows: Tensor, weights: Tensor) -> Tensor:
    """Return ``sum_{j != k} x_jk^zeta w_j w_k`` for each zeta and lambda.

    Parameters
    ----------
    arrows : (n, k, 3), unit vectors to the neighbours
    weights : (n, n_r_s, k)

    Returns
    -------
    (n, n_r_s, n_zeta * n_lambda)
    """
    n, k, _ = arrows.shape
    x, half = torch.empty(n, k, k, device=arrows.device), torch.full((1, 1, 1), 0.5, device=arrows.device)
    sums: dict[tuple[int, int], Tensor] = {}
    for sign in LAMBDAS:
        torch.baddbmm(half, arrows, arrows.transpose(1, 2), alpha=0.5 * sign, out=x)
        x.diagonal(dim1=1, dim2=2).zero_()
        power = 1
        for zeta in ZETAS:
            while power < zeta:
                x, power = torch.mul(x, x, out=x), 2 * power
            sums[zeta, sign] = (torch.bmm(weights, x) * weights).sum(dim=2)
    return torch.stack([sums[zeta, sign] for zeta in ZETAS for sign in LAMBDAS], dim=2)
