"""The network and the training control that aimmd's authors use with PyTorch in their examples.

A pyramidal ResNet of five residual units that narrows towards ten units, Adam with a learning rate of 1e-3, and the
control by the expected-efficiency factor (their notebooks of lithium chloride). Their pyramids begin with hundreds of
descriptors; with fewer than ten, no layer is narrower here than the top.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import aimmd
import torch

N_UNITS, TOP = 5, 10
PRODUCTION: Mapping[str, Any] = {"lr_0": 1e-3, "lr_min": 5e-5, "epochs_per_train": 5, "interval": 5, "window": 75}
"""Their control of the training in a run that samples."""

EMULATION: Mapping[str, Any] = {
    "lr_0": 1e-3,
    "lr_min": 1e-4,
    "epochs_per_train": 1,
    "interval": 3,
    "window": 100,
    "batch_size": 128,
}
"""Their control where shots are recorded already and learned from one by one."""


def make_model(n_inputs: int, states: Sequence[Any], control: Mapping[str, Any], transform: Any = None) -> Any:
    """Return an untrained model.

    Parameters
    ----------
    n_inputs : number of descriptors
    states : of OpenPathSampling, or names where no snapshots are met
    control : parameters of the expected-efficiency control
    transform : from snapshots to descriptors
    """
    shrink = (TOP / n_inputs) ** (1 / (N_UNITS - 1))
    widths = [max(TOP, int(n_inputs * shrink**layer)) for layer in range(N_UNITS)]
    layers, below = [], n_inputs
    for width in widths:
        layers.append(aimmd.pytorch.networks.FFNet(n_in=below, n_hidden=[width]))
        layers.append(aimmd.pytorch.networks.ResNet(n_units=width, n_blocks=1))
        below = width
    network = aimmd.pytorch.networks.ModuleStack(n_out=1, modules=layers)
    return aimmd.pytorch.EEScalePytorchRCModel(
        nnet=network,
        optimizer=torch.optim.Adam(network.parameters(), lr=1e-3),
        states=list(states),
        ee_params=dict(control),
        descriptor_transform=transform,
    )
