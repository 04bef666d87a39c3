"""The committor model: an ensemble of small networks from descriptor columns to logits, numpy in and numpy out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.nn import functional

from separatrix.errors import ColumnMismatchError, StoreError
from separatrix.logits import effective_q, probabilities
from separatrix.records import Float32Array
from separatrix.threads import single_thread

WIDTHS: Final = (24, 12)
"""Units of the hidden layers, from the descriptors down. Wider and deeper pyramids were no better on landscapes."""

FORMAT: Final = "separatrix-committor-1"
"""Name and version of the layout written by ``Committor.to_bytes``."""

_ROWS_AT_ONCE: Final = 65_536


def evaluate(weights: Sequence[Tensor], inputs: Tensor) -> Tensor:
    """Return the logits of every member.

    A pyramid with residuals, batched over members: ``h_1 = silu(z W_1 + b_1)``,
    ``h_{k+1} = h_k[:width_{k+1}] + silu(h_k W_{k+1} + b_{k+1})``, ``q = h W + b``.

    Parameters
    ----------
    weights : matrices (n_members, n_in, n_out) and biases (n_members, 1, n_out) in turn, layer by layer
    inputs : (n, d) standardised descriptors

    Returns
    -------
    (n_members, n, n_outputs) logits
    """
    return _onward(weights, _first_sums(weights[0], inputs))


def _first_sums(matrix: Tensor, inputs: Tensor) -> Tensor:
    """Return ``z W_1`` (n_members, n, width) of inputs (n, d); one product for all members."""
    n_members, d, width = matrix.shape
    flat = inputs @ matrix.permute(1, 0, 2).reshape(d, n_members * width)
    return flat.view(-1, n_members, width).permute(1, 0, 2)


def _onward(weights: Sequence[Tensor], sums: Tensor) -> Tensor:
    """Return the logits of every member from ``z W_1``."""
    hidden = functional.silu(sums + weights[1])
    for matrix, bias in zip(weights[2:-2:2], weights[3:-2:2], strict=True):
        step = functional.silu(torch.baddbmm(bias, hidden, matrix))
        hidden = hidden[:, :, : matrix.shape[2]] + step
    return torch.baddbmm(weights[-1], hidden, weights[-2])


def backpropagate(weights: Sequence[Tensor], inputs: Tensor, slope: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
    """Return the gradient of a loss by every weight, as automatic differentiation of `evaluate` would in more time.

    Parameters
    ----------
    weights, inputs : as for `evaluate`; nothing may ask for gradients of them
    slope : takes the logits (n_members, n, n_outputs), returns the derivatives of the loss by them

    Returns
    -------
    One gradient for each of the weights, of its shape
    """
    matrices, biases = weights[::2], weights[1::2]
    n_members, d, width = matrices[0].shape
    flat = inputs @ matrices[0].permute(1, 0, 2).reshape(d, n_members * width)
    sums = [flat.view(-1, n_members, width).permute(1, 0, 2) + biases[0]]
    gates = [torch.sigmoid(sums[0])]
    hidden = [sums[0] * gates[0]]  # silu(a) = a sigmoid(a)
    for matrix, bias in zip(matrices[1:-1], biases[1:-1], strict=True):
        sums.append(torch.baddbmm(bias, hidden[-1], matrix))
        gates.append(torch.sigmoid(sums[-1]))
        hidden.append(torch.addcmul(hidden[-1][:, :, : matrix.shape[2]], sums[-1], gates[-1]))
    by_logits = slope(torch.baddbmm(biases[-1], hidden[-1], matrices[-1]))
    gradients = [by_logits.sum(dim=1, keepdim=True), hidden[-1].mT @ by_logits]
    by_hidden = by_logits @ matrices[-1].mT
    for layer in range(len(hidden) - 1, -1, -1):
        gate = gates[layer]
        by_sum = by_hidden * torch.addcmul(gate, sums[layer] * gate, 1.0 - gate)
        gradients.append(by_sum.sum(dim=1, keepdim=True))
        if layer == 0:
            together = inputs.mT @ by_sum.permute(1, 0, 2).reshape(-1, n_members * width)
            gradients.append(together.view(d, n_members, width).permute(1, 0, 2))
            break
        gradients.append(hidden[layer - 1].mT @ by_sum)
        before = by_sum @ matrices[layer].mT
        before[:, :, : matrices[layer].shape[2]] += by_hidden  # past the layer, as a residual
        by_hidden = before
    return tuple(reversed(gradients))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Committor:
    """An ensemble of networks that predicts in which state a trajectory from a configuration ends.

    Attributes
    ----------
    columns : names of the descriptor columns, in order
    states : names of the states; the logit of two states is that of the second
    version : how often it was trained; 0 is the untrained model, which predicts q = 0 everywhere
    mean, inverse_scale : (d,) float32; inputs are ``(features - mean) * inverse_scale``, 0 for a constant column
    weights : matrices (n_members, n_in, n_out) and biases (n_members, 1, n_out) in turn, layer by layer
    penalty : strength of the penalty on columns that did best on held-out shots so far; 0 for the untrained model
    """

    columns: tuple[str, ...]
    states: tuple[str, ...]
    version: int
    mean: Tensor
    inverse_scale: Tensor
    weights: tuple[Tensor, ...]
    penalty: float = 0.0

    def __post_init__(self) -> None:
        """Refuse shapes that do not fit together."""
        if len(self.states) < 2:
            raise ValueError(f"expected at least two states, got {list(self.states)}")
        d, n_outputs = len(self.columns), self.n_outputs
        found = (len(self.mean), len(self.inverse_scale), self.weights[0].shape[1], self.weights[-1].shape[2])
        if found != (d, d, d, n_outputs):
            raise ValueError(f"expected weights for {d} columns and {n_outputs} outputs, got {found}")

    @classmethod
    def untrained(cls, columns: Sequence[str], states: Sequence[str], *, members: int = 4, seed: int = 0) -> Self:
        """Return version 0: random hidden layers and an output of zero, so that selection starts uniform."""
        rng = np.random.default_rng(seed)
        n_outputs = 1 if len(states) == 2 else len(states)
        sizes = (len(columns), *WIDTHS)
        weights: list[Tensor] = []
        for n_in, n_out in pairwise(sizes):
            matrix = rng.normal(0.0, max(n_in, 1) ** -0.5, (members, n_in, n_out)).astype(np.float32)
            weights += [torch.from_numpy(matrix), torch.zeros(members, 1, n_out)]
        weights += [torch.zeros(members, sizes[-1], n_outputs), torch.zeros(members, 1, n_outputs)]
        return cls(
            columns=tuple(columns),
            states=tuple(states),
            version=0,
            mean=torch.zeros(len(columns)),
            inverse_scale=torch.ones(len(columns)),
            weights=tuple(weights),
        )

    @property
    def n_outputs(self) -> int:
        """Logits per configuration: one for two states, one per state for more."""
        return 1 if len(self.states) == 2 else len(self.states)

    @property
    def members(self) -> int:
        """Number of networks in the ensemble."""
        return int(self.weights[0].shape[0])

    def check_columns(self, names: Sequence[str]) -> None:
        """Refuse descriptor columns other than those of the model, or in another order.

        Raises
        ------
        ColumnMismatchError
            Naming what is missing, what is too many, or the first column out of order.
        """
        if tuple(names) == self.columns:
            return
        missing = [name for name in self.columns if name not in names]
        extra = [name for name in names if name not in self.columns]
        if missing or extra:
            parts = [
                f"{what} {', '.join(found[:5])}" for what, found in (("missing", missing), ("extra", extra)) if found
            ]
            problem = "; ".join(parts)
        elif len(names) != len(self.columns):
            problem = "some of them more than once"
        else:
            place = next(i for i, pair in enumerate(zip(names, self.columns, strict=True)) if pair[0] != pair[1])
            problem = f"column {place} is {names[place]}, the model expects {self.columns[place]} there"
        raise ColumnMismatchError(f"expected the {len(self.columns)} columns of the model, got {len(names)}: {problem}")

    def member_logits(self, features: ArrayLike) -> NDArray[np.float64]:
        """Return the logits of every member, (n_members, n) for two states and (n_members, n, n_states) for more."""
        rows = np.require(features, np.float32, ["C", "W"])  # torch takes no read-only memory
        if rows.ndim != 2 or rows.shape[1] != len(self.columns):
            raise ColumnMismatchError(f"expected features of shape (n, {len(self.columns)}), got {rows.shape}")
        result = np.empty((self.members, len(rows), self.n_outputs))
        with single_thread(), torch.inference_mode():
            for start in range(0, len(rows), _ROWS_AT_ONCE):
                block = torch.from_numpy(rows[start : start + _ROWS_AT_ONCE])
                inputs = (block - self.mean) * self.inverse_scale
                result[:, start : start + _ROWS_AT_ONCE] = evaluate(self.weights, inputs).numpy()
        return result[:, :, 0] if self.n_outputs == 1 else result

    def first_sums(self, features: ArrayLike, columns: Sequence[int]) -> Float32Array:
        """Return what some columns add to the sums of the first layer, (n_members, n, width), without its biases.

        Parameters
        ----------
        features : (n, d), all of them
        """
        chosen = list(columns)
        rows = torch.from_numpy(np.ascontiguousarray(np.asarray(features, dtype=np.float32)[:, chosen]))
        with single_thread(), torch.inference_mode():
            inputs = (rows - self.mean[chosen]) * self.inverse_scale[chosen]
            sums: Float32Array = _first_sums(self.weights[0][:, chosen], inputs).numpy()
        return sums

    def logits_of_sums(self, sums: Float32Array) -> NDArray[np.float64]:
        """Return what `logits` does, from the sums of the first layer over all columns, (n_members, n, width)."""
        with single_thread(), torch.inference_mode():
            logits = _onward(self.weights, torch.from_numpy(sums)).double().mean(dim=0).numpy()
        return np.asarray(logits[:, 0] if self.n_outputs == 1 else logits)

    def logits(self, features: ArrayLike) -> NDArray[np.float64]:
        """Return the mean logits over the members: (n,) for two states, (n, n_states) for more."""
        return np.asarray(self.member_logits(features).mean(axis=0))

    def q(self, features: ArrayLike) -> NDArray[np.float64]:
        """Return the effective logit (n,) that selectors take; see ``effective_q``."""
        return effective_q(self.logits(features))

    def probabilities(self, features: ArrayLike) -> NDArray[np.float64]:
        """Return the probability of ending in each state, (n, n_states), from the mean logits."""
        return probabilities(self.logits(features))

    def p_B(self, features: ArrayLike) -> NDArray[np.float64]:
        """Return the committor to the second of two states, (n,).

        Raises
        ------
        ValueError
            If there are more than two states.
        """
        if self.n_outputs > 1:
            raise ValueError(f"p_B needs two states, got {len(self.states)}: use probabilities")
        return np.asarray(self.probabilities(features)[:, 1])

    def spread(self, features: ArrayLike) -> NDArray[np.float64]:
        """Return the standard deviation (n,) of the members' logits; zeros for a single member.

        For more than two states it is ``sqrt(2 sum_i var_i)`` of the centred logits, which for two gives that of q.
        """
        logits = self.member_logits(features)
        if logits.ndim == 2:
            return np.asarray(logits.std(axis=0))
        centred = logits - logits.mean(axis=2, keepdims=True)
        return np.asarray(np.sqrt(2.0 * centred.var(axis=0).sum(axis=1)))

    def member(self, index: int) -> Self:
        """Return one network of the ensemble, as an ensemble of one."""
        return replace(self, weights=tuple(weight[index : index + 1] for weight in self.weights))

    def gradients(self, features: ArrayLike) -> NDArray[np.float64]:
        """Return the derivative (n, d) of the logit of p_B by every column, per unit of the column.

        Raises
        ------
        ValueError
            If there are more than two states.
        """
        if self.n_outputs > 1:
            raise ValueError(f"gradients need two states, got {len(self.states)}")
        rows = np.require(features, np.float32, ["C", "W"])
        result = np.empty(rows.shape)
        with single_thread():
            for start in range(0, len(rows), _ROWS_AT_ONCE):
                block = torch.from_numpy(rows[start : start + _ROWS_AT_ONCE].copy()).requires_grad_()
                # A row's logit depends on that row alone: the gradient of the sum holds the gradients of all.
                total = evaluate(self.weights, (block - self.mean) * self.inverse_scale).mean(dim=0).sum()
                (gradient,) = torch.autograd.grad(total, block)
                result[start : start + _ROWS_AT_ONCE] = gradient.numpy()
        return result

    def to_bytes(self) -> bytes:
        """Return the model as safetensors with its names as JSON metadata; equal models give equal bytes."""
        tensors = {"mean": self.mean, "inverse_scale": self.inverse_scale}
        for layer, (matrix, bias) in enumerate(zip(self.weights[::2], self.weights[1::2], strict=True)):
            tensors |= {f"layer{layer:02}.matrix": matrix, f"layer{layer:02}.bias": bias}
        about = {
            "format": FORMAT,
            "columns": self.columns,
            "states": self.states,
            "version": self.version,
            "penalty": self.penalty,
        }
        # A single key: the order of several is not defined.
        metadata = {"separatrix": json.dumps(about)}
        return save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read a model back.

        Raises
        ------
        StoreError
            If the bytes are no model of this format.
        """
        try:
            about = _metadata(data)
            tensors = load(data)
            n_layers = sum(name.endswith(".matrix") for name in tensors)
            names = [f"layer{layer:02}.{part}" for layer in range(n_layers) for part in ("matrix", "bias")]
            return cls(
                columns=tuple(about["columns"]),
                states=tuple(about["states"]),
                version=int(about["version"]),
                mean=tensors["mean"],
                inverse_scale=tensors["inverse_scale"],
                weights=tuple(tensors[name] for name in names),
                penalty=float(about["penalty"]),
            )
        except (SafetensorError, KeyError, ValueError, TypeError, IndexError) as error:
            raise StoreError(
                f"expected a committor model in format {FORMAT}, got {len(data)} bytes: {error}"
            ) from error


def _metadata(data: bytes) -> dict[str, Any]:
    """Return the JSON written by ``to_bytes``; safetensors puts a length of 8 bytes and a JSON header first."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    about: dict[str, Any] = json.loads(header["__metadata__"]["separatrix"])
    if about["format"] != FORMAT:
        raise ValueError(f"the format is {about['format']}")
    return about
