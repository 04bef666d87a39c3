"""What aimmd's network learns from recorded shots: one by one under its own training control, and all at once.

All at once, which takes much longer, is what its authors call post-processing training: a tenth of the shots is held
out, and training ends when the loss on them has not fallen for a thousand epochs; the best weights on them count.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import aimmd
import numpy as np
import torch
from aimmd_model import EMULATION, make_model

BATCH, PATIENCE, HELD_OUT = 128, 1_000, 0.1


def emulate(descriptors: Any, counts: Any, checkpoints: list[int], frames: Any) -> list[Any]:
    """Return p_B of the frames after each checkpoint, learned shot by shot as in a run."""
    model = make_model(descriptors.shape[1], ("A", "B"), EMULATION)
    trainset = aimmd.TrainSet(n_states=2)
    predictions = []
    for shot, (point, count) in enumerate(zip(descriptors, counts, strict=True), start=1):
        model.register_sp(point[None], use_transform=False)
        trainset.append_point(point, count)
        model.train_hook(trainset)
        if shot in checkpoints:
            predictions.append(predict(model, frames))
    return predictions


def train_afterwards(descriptors: Any, counts: Any, frames: Any, rng: np.random.Generator) -> Any:
    """Return p_B of the frames, learned from all shots at once."""
    model = make_model(descriptors.shape[1], ("A", "B"), EMULATION)
    held_out = np.zeros(len(descriptors), dtype=bool)
    held_out[rng.permutation(len(descriptors))[: int(HELD_OUT * len(descriptors))]] = True
    kept, other = (
        aimmd.TrainSet(n_states=2, descriptors=descriptors[rows], shot_results=counts[rows])
        for rows in (~held_out, held_out)
    )
    least, since, best = np.inf, 0, None
    while since < PATIENCE:
        model.train_epoch(kept, batch_size=BATCH)
        loss = model.test_loss(other, batch_size=BATCH)
        since += 1
        if loss < least:
            least, since, best = loss, 0, copy.deepcopy(model.nnet.state_dict())
    model.nnet.load_state_dict(best)
    return predict(model, frames)


def predict(model: Any, frames: Any) -> Any:
    """Return p_B of frames (n, d)."""
    return model(frames, use_transform=False, batch_size=8192)[:, 0]


def main() -> None:
    """Read shots and frames, write predictions."""
    parser = argparse.ArgumentParser()
    parser.add_argument("shots", type=Path, help="npz with descriptors, counts and frames")
    parser.add_argument("predictions", type=Path)
    parser.add_argument("--checkpoints", type=int, nargs="+", required=True)
    parser.add_argument("--afterwards", type=int, required=True, help="how many shots are learned all at once")
    parser.add_argument("--seed", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    np.random.seed(arguments.seed)  # noqa: NPY002 - aimmd draws its batches from it
    rng = np.random.default_rng(arguments.seed)
    stored = np.load(arguments.shots)
    descriptors, counts, frames = (stored[name].astype(float) for name in ("descriptors", "counts", "frames"))
    one_by_one = emulate(descriptors, counts, arguments.checkpoints, frames)
    n = arguments.afterwards
    afterwards = train_afterwards(descriptors[:n], counts[:n], frames, rng)
    np.savez(arguments.predictions, one_by_one=one_by_one, afterwards=afterwards)


if __name__ == "__main__":
    main()
