"""Takes the tumbling out of a path: every frame is turned and shifted onto a reference."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def superposed(
    positions: NDArray[np.floating], atoms: ArrayLike, reference: NDArray[np.floating] | None = None
) -> NDArray[np.float32]:
    r"""Return positions turned and shifted, each frame as a whole, so that some atoms lie best on a reference.

    Per frame the proper rotation R and the shift that minimise :math:`\sum_i |R (x_i - \bar x) + \bar y - y_i|^2`.

    Parameters
    ----------
    positions : (n_frames, n_atoms, 3)
    atoms : (m,) indices of the atoms that are to match
    reference : (m, 3) where these are to lie; by default where they lie in the first frame

    Returns
    -------
    (n_frames, n_atoms, 3) float32

    References
    ----------
    W. Kabsch, Acta Cryst. A 32, 922 (1976); A 34, 827 (1978).
    """
    mobile = positions[:, np.asarray(atoms)].astype(np.float64)
    target = mobile[0] if reference is None else np.asarray(reference, dtype=np.float64)
    centres = mobile.mean(axis=1, keepdims=True)
    goal = target.mean(axis=0)
    left, _, right = np.linalg.svd((mobile - centres).transpose(0, 2, 1) @ (target - goal))
    left[:, :, 2] *= np.sign(np.linalg.det(left @ right))[:, None]  # a mirror image is no rotation
    rotations = left @ right
    shifts = goal - centres @ rotations
    turned: NDArray[np.float32] = positions.astype(np.float32) @ rotations.astype(np.float32)
    return turned + shifts.astype(np.float32)


def lying_flat(points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return points turned onto their principal axes, about the origin: longest along x, thinnest along z.

    So a molecule shows its broad side first. Mirror images are never made.

    Parameters
    ----------
    points : (m, 3)
    """
    centred = np.asarray(points, dtype=np.float64) - np.mean(points, axis=0, dtype=np.float64)
    axes = np.linalg.svd(centred, full_matrices=False)[2] if len(centred) > 2 else np.eye(3)
    axes[2] *= np.sign(np.linalg.det(axes))
    return centred @ axes.T
