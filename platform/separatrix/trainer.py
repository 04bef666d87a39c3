"""Training of the committor: from shots and their labelled frames to the next version of the model. Pure functions.

What was measured on Brownian landscapes decides the shape of it (Hummer-Szabo 4 kT, Mueller-Brown 5 kT):

- Small networks with a group penalty on the first layer: one row of weights per descriptor column, shrunk as a whole,
  as strongly as held-out shots ask for. With 20 nuisance columns beside two that matter it cuts the error of p_B at
  1,000 shots from 0.07 to 0.03.
- All frames of the half-trajectories train the network, evenly thinned in time (``build_training_data``), and where a
  half goes on to another frame, what the model before predicts there counts beside the end (``expected_targets``).
- Every member holds shots of its own out for ever and stops when its loss on them stops falling.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

from separatrix.committor import WIDTHS, Committor, backpropagate, evaluate
from separatrix.config import CommittorConfig
from separatrix.errors import ConfigError, DeviceLostError
from separatrix.logits import probabilities
from separatrix.records import Float32Array, FloatArray, IntArray
from separatrix.threads import single_thread
from separatrix.training_data import TrainingData, expected_targets

BATCH: Final = 512
"""Rows per optimisation step, or an eighth of them where there are fewer."""

MINIMUM_BATCH: Final = 8
"""Rows per step at least: a first training on ten shots must not take longer than the shots."""

MINIMUM_BATCHES: Final = 8
MAXIMUM_EPOCHS: Final = 100
PATIENCE: Final = 8
"""Epochs without a better held-out loss in half of the members before training stops."""

IMPROVEMENT: Final = 1e-4
"""Least drop of the held-out loss per shot that counts."""

AVERAGING: Final = 0.2
"""Share of the newest weights in the running average over epochs, which is what is judged and kept."""

PENALTIES: Final = (1.0, 0.3, 3.0, 10.0)
"""Strengths of the column penalty tried in the first training, the usual one first; see ``_column_penalty``."""

PENALTY_STEP: Final = 2.0
"""Factor between the strength in use and its challenger in every second training after that."""

WORTH_A_RESTART: Final = 5e-3
"""By how much the held-out loss per trajectory must be less after a restart: chance gives less, and what was learned is
lost."""

TRACE: Final = 0.7
"""Share of what came after a frame, against what was predicted for it; see ``expected_targets``.

Mueller-Brown, six runs of 1,000 shots, error of p_B with 1, 0.7, 0.5: 0.029, 0.025, 0.023. With columns that leave out
a coordinate that matters, frames are not Markovian, and the calibration slope is 0.99, 1.02, 1.05.
"""

GOLDEN: Final = 0.6180339887498949

_SMALLEST_DEVIATION: Final = 1e-30
"""A column may come in any unit, such as metres; its inverse must still be a number in single precision."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingReport:
    """How a training went.

    Attributes
    ----------
    version : of the model it gave
    n_shots : shots it was trained on
    training_loss : per shot, on the shooting points each member was trained on
    validation_loss : per shot, on held-out shooting points; chance is ln 2 for two states; nan without any
    epochs : passes over the data, those of rejected penalties included
    learning_rate : as used
    efficiency : expected-efficiency factor that scaled it
    seconds : wall time
    shot : (n_shots,) integers, the shots in the order of the next array
    held_out_q : (n_shots,), (n_shots, n_states) for more than two states: logits predicted by the members that held the
        shot out; nan where none did
    """

    version: int
    n_shots: int
    training_loss: float
    validation_loss: float
    epochs: int
    learning_rate: float
    efficiency: float
    seconds: float
    shot: IntArray
    held_out_q: NDArray[np.float64]


def training_due(n_shots: int, n_shots_at_last_training: int) -> bool:
    """Return whether to train now: every 10 shots at first, then at a quarter more, at last every 100.

    >>> [n for n in range(200) if training_due(n, 40)][0], [n for n in range(3000) if training_due(n, 2000)][0]
    (50, 2100)
    """
    interval = min(100, max(10, n_shots_at_last_training // 4))
    return n_shots - n_shots_at_last_training >= interval


def restart_due(n_shots: int, n_shots_at_last_training: int) -> bool:
    """Return whether a training also begins from nothing: each time the shots have doubled, at 20, 40, 80 and so on.

    The first models learn from a handful of shots which columns matter, and each of them begins where the one before
    ended, in whatever they took chance for. With 20 nuisance columns beside two that matter (two-gaussians, 200 shots)
    that left the error of p_B at 0.16; with restarts it is 0.09.

    >>> restart_due(10, 0), restart_due(20, 10), restart_due(30, 20), restart_due(96, 77)
    (False, True, False, True)
    """
    return n_shots_at_last_training > 0 and (n_shots // 10).bit_length() > (n_shots_at_last_training // 10).bit_length()


def expected_efficiency(p_transition: ArrayLike, is_transition: ArrayLike, window: int) -> float:
    """Return how wrong the model's promises were: ``EE = min(1, (1 - n_true / n_exp)^2)`` over the last shots.

    ``n_exp`` is the sum of the transition probabilities predicted before each shot, ``n_true`` the number that came.
    1 for fewer than ten shots or ``n_exp = 0`` (Jung et al. 2023).

    Parameters
    ----------
    p_transition : (n,) predicted before each shot
    is_transition : (n,) whether the same shot gave a transition
    window : how many of the last shots count

    Raises
    ------
    ValueError
        If predictions and outcomes are not aligned.

    >>> expected_efficiency([0.5] * 20, [True, False, False, False] * 5, 100)
    0.25
    """
    predicted, true = np.asarray(p_transition, dtype=float), np.asarray(is_transition, dtype=bool)
    if predicted.shape != true.shape:
        raise ValueError(f"expected one prediction per shot, got {len(predicted)} for {len(true)} shots")
    predicted, true = predicted[-window:], true[-window:]
    expected = float(predicted.sum())
    if len(predicted) < 10 or expected == 0.0:
        return 1.0
    return min(1.0, (1.0 - float(true.sum()) / expected) ** 2)


def scaled_learning_rate(efficiency: float, config: CommittorConfig) -> float:
    """Return the learning rate of a training that is due: ``max(lr_min, lr_0 EE)``.

    The expected efficiency lets a model that keeps its promises move little and one that breaks them move fast. As
    published the smallest rate is a gate, and nothing is trained below it. But with a good model EE is about
    ``1 / n_exp``, 0.02 for a window of 100 shots, and the gate would stay shut while the data grow tenfold. Here it is
    a floor: *when* to train is decided by the growth of the data (``training_due``), *how fast* by the efficiency, *how
    long* by the held-out loss. So a model is never older than a quarter of its data, and a training that brings nothing
    is short.
    """
    return max(config.minimum_learning_rate, config.learning_rate * efficiency)


def held_out_by(shot: IntArray, members: int, fraction: float) -> NDArray[np.bool_]:
    """Return which members hold which rows out, (n_members, n).

    The golden ratio hashes the shot number to [0, 1), spreading any run of consecutive shots evenly; member m takes a
    window of width ``fraction``, shifted by m / n_members. So a shot held out once stays held out for that member for
    ever, whatever the seed, and with ``fraction = 1 / n_members`` every shot is held out by exactly one.

    >>> held_out_by(np.arange(1000), 4, 0.25).sum(axis=0).tolist() == [1] * 1000
    True
    """
    place = np.asarray(shot, dtype=np.int64) * GOLDEN
    offsets = np.arange(members)[:, None] / members
    return np.asarray((place + offsets) % 1.0 < fraction)


def train(
    data: TrainingData,
    previous: Committor,
    *,
    seed: int,
    efficiency: float,
    version: int,
    config: CommittorConfig,
    restart: bool = False,
    device: str = "cpu",
) -> tuple[Committor, TrainingReport]:
    """Train the next version of the model; the same arguments give the same bytes, on the CPU.

    Starts from the weights of ``previous``, with a fresh Adam. Each member minimises, over the shots it does not hold
    out and in large batches, ``sum_rows weight * (n_A softplus(q) + n_B softplus(-q))`` (multinomial, with log-sum-exp,
    for more states) plus the column penalty. Its n_A and n_B are what its own predecessor lets expect
    (``expected_targets``), after a restart what came. What is judged and kept is a running average of its weights over
    epochs: the one with the least loss on its held-out shots. Frames count in that loss (on a handful of shooting
    points it would be noise), with what came; the losses reported are of shooting points alone. The same held-out loss
    decides between strengths of the penalty (``_penalties_to_try``), and between a start from the model before and a
    restart.

    Parameters
    ----------
    previous : the model before; of version 0, it only gives columns and states
    seed : the seed of the run; together with ``version`` it decides the order of the batches
    efficiency : expected-efficiency factor, scales the learning rate (see ``scaled_learning_rate``)
    restart : whether to begin from untrained networks, too (see ``restart_due``)
    device : where to train; the model that is returned lies on the CPU. Other devices draw the same batches, and
        round and sum otherwise

    Raises
    ------
    DeviceLostError
        If a device other than the CPU fails, such as for lack of memory.
    ValueError
        If there are no data, or their columns or states are not those of the model.
    """
    start = time.perf_counter()
    n_columns, n_states = len(previous.columns), len(previous.states)
    if not data.is_shooting_point.any() or data.features.shape[1] != n_columns or data.targets.shape[1] != n_states:
        found = f"{data.is_shooting_point.sum()} with {data.features.shape[1]} and {data.targets.shape[1]}"
        raise ValueError(f"expected shooting points with {n_columns} columns and {n_states} states, got {found}")
    learning_rate = scaled_learning_rate(efficiency, config)
    order_seed = int(np.random.SeedSequence([seed, version]).generate_state(1)[0])
    if previous.version == 0:
        previous = Committor.untrained(previous.columns, previous.states, members=config.members, seed=seed)
    with single_thread():
        base = _standardised(data.features, previous, anew=restart)
        held_out = held_out_by(data.held_together, previous.members, config.held_out)
        with _device_errors(device):
            problem = _Problem.of(data, base, held_out, device).expecting(data, previous, device)
            fits = [_fit(problem, base, penalty, learning_rate, order_seed) for penalty in _penalties_to_try(base)]
            best = min(fits, key=lambda fit: fit.held_out_loss)
            if restart:
                untrained = Committor.untrained(base.columns, base.states, members=config.members, seed=order_seed)
                as_it_came = replace(problem, targets=problem.counts)
                rate = config.learning_rate
                fits += [_fit(as_it_came, untrained, penalty, rate, order_seed) for penalty in PENALTIES]
                fresh = min(fits, key=lambda fit: fit.held_out_loss)
                if fresh.held_out_loss < best.held_out_loss - WORTH_A_RESTART:
                    best = fresh
    model = replace(base, version=version, weights=problem.layers(best.weights), penalty=best.penalty)
    training_loss, validation_loss, held_out_q = _judge(model, data, held_out)
    report = TrainingReport(
        version=version,
        n_shots=int(data.is_shooting_point.sum()),
        training_loss=training_loss,
        validation_loss=validation_loss,
        epochs=sum(fit.epochs for fit in fits),
        learning_rate=learning_rate,
        efficiency=efficiency,
        seconds=time.perf_counter() - start,
        shot=data.shot[data.is_shooting_point],
        held_out_q=held_out_q,
    )
    return model, report


def varying(features: FloatArray) -> NDArray[np.bool_]:
    """Return which columns (d,) of features (n, d) vary; the network does not see the others.

    A column whose standard deviation is a ten-thousandth of its mean or less is constant up to rounding, as constrained
    bonds are.
    """
    mean = features.mean(axis=0, dtype=np.float64)
    return np.asarray(features.std(axis=0, dtype=np.float64) > 1e-4 * np.abs(mean) + _SMALLEST_DEVIATION)


def _standardised(features: Float32Array, model: Committor, *, anew: bool) -> Committor:
    """Return the model with its input scaling fitted to the data, if those drifted away from it or that is asked for.

    The first layer is compensated, so that a trained model predicts what it did. Columns that do not vary (constrained
    bonds, up to rounding) get the scale 0.
    """
    mean = features.mean(axis=0, dtype=np.float64)
    deviation = features.std(axis=0, dtype=np.float64)
    varies = varying(features)
    inverse = np.where(varies, 1.0 / np.where(varies, deviation, 1.0), 0.0)
    new_mean, new_inverse = (torch.from_numpy(array.astype(np.float32)) for array in (mean, inverse))
    if model.version == 0:
        return replace(model, mean=new_mean, inverse_scale=new_inverse)
    old_mean, old_inverse = model.mean.double().numpy(), model.inverse_scale.double().numpy()
    drift = np.abs(mean - old_mean) * np.maximum(inverse, old_inverse)
    ratio = old_inverse * deviation
    if not (anew or (varies & ((drift > 0.5) | (ratio < 0.5) | (ratio > 2.0))).any()):
        return model
    # Columns that stopped varying keep their scale: a scale of 0 would drop what the model knows of them.
    mean, inverse = np.where(varies, mean, old_mean), np.where(varies, inverse, old_inverse)
    change = np.divide(old_inverse, inverse, out=np.zeros_like(inverse), where=inverse > 0)
    matrix, bias = (weight.double().numpy() for weight in model.weights[:2])
    shift = ((mean - old_mean) * old_inverse) @ matrix
    first = (matrix * change[:, None], bias + shift[:, None, :])
    return replace(
        model,
        mean=torch.from_numpy(mean.astype(np.float32)),
        inverse_scale=torch.from_numpy(inverse.astype(np.float32)),
        weights=(*(torch.from_numpy(array.astype(np.float32)) for array in first), *model.weights[2:]),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Problem:
    """What is minimised: standardised rows (n, d), weighted counts (n, n_states), and who trains on which row.

    Members train on ``targets``, which may differ from the counts and for every member, (n_members, n, n_states).
    """

    inputs: Tensor
    counts: Tensor
    targets: Tensor
    trained_on: Tensor
    held_out: tuple[Tensor, ...]
    shapes: tuple[tuple[int, int], ...]
    penalty: float

    @classmethod
    def of(cls, data: TrainingData, model: Committor, held_out: NDArray[np.bool_], device: str) -> _Problem:
        features = torch.from_numpy(np.require(data.features, requirements=["C", "W"]))
        # A member that would hold everything out (a handful of shots) trains on everything.
        held_out = held_out & ~held_out.all(axis=1, keepdims=True)
        counts = torch.from_numpy(data.targets * data.weights[:, None]).to(device)
        return cls(
            inputs=((features - model.mean) * model.inverse_scale).to(device),
            counts=counts,
            targets=counts,
            trained_on=torch.from_numpy((~held_out).astype(np.float32)).to(device),
            held_out=tuple(torch.from_numpy(np.flatnonzero(rows)).to(device) for rows in held_out),
            shapes=tuple((weight.shape[1], weight.shape[2]) for weight in model.weights),
            penalty=_column_penalty(data.features.shape[1], int(data.is_shooting_point.sum())),
        )

    def expecting(self, data: TrainingData, previous: Committor, device: str) -> _Problem:
        """Return the same with what each member expects after its own predecessor, which saw no more shots than it."""
        if data.onward is None or previous.version == 0:
            return self
        predicted = np.stack([probabilities(logits) for logits in previous.member_logits(data.features)])
        targets = expected_targets(data, predicted, TRACE) * data.weights[:, None]
        return replace(self, targets=torch.from_numpy(targets.astype(np.float32)).to(device))

    def layers(self, flat: Tensor) -> tuple[Tensor, ...]:
        """Return the layers as views of flat weights (n_members, n_weights)."""
        pieces = torch.split(flat, [rows * columns for rows, columns in self.shapes], dim=1)
        return tuple(piece.view(-1, *shape) for piece, shape in zip(pieces, self.shapes, strict=True))

    def gradient(self, flat: Tensor, rows: Tensor, scale: float) -> Tensor:
        """Return the gradient by flat weights of ``scale`` times the losses on the rows that each member trains on."""
        targets, share = self.targets[..., rows, :], (self.trained_on[:, rows] * scale)[:, :, None]

        def slope(logits: Tensor) -> Tensor:
            return _slopes(logits, targets).mul_(share)

        return _flatten(backpropagate(self.layers(flat), self.inputs[rows], slope))

    def held_out_loss(self, flat: Tensor) -> NDArray[np.float64]:
        """Return the mean loss of every member on its held-out rows; nan for none."""
        losses = []
        with torch.inference_mode():
            for member, rows in enumerate(self.held_out):
                counts = self.counts[rows]
                logits = evaluate(self.layers(flat[member : member + 1]), self.inputs[rows])
                losses.append(float(_losses(logits, counts).sum() / counts.sum()))
        return np.array(losses)

    def shrink(self, flat: Tensor, amount: float) -> None:
        """Shrink the first-layer row of every column by a length, down to zero (proximal step of the group penalty)."""
        rows, width = self.shapes[0]
        first = flat[:, : rows * width].view(-1, rows, width)
        length = torch.linalg.vector_norm(first, dim=2, keepdim=True)
        first.mul_((1.0 - amount / length.clamp(min=1e-12)).clamp(min=0.0))


def _penalties_to_try(model: Committor) -> tuple[float, ...]:
    """Return the strengths of the column penalty for this training; held-out loss decides, in a tie for the first.

    What is best depends on how many columns carry information, by a factor of ten: strong where two of 22 do, weak
    where each of 55 shows a little. The first training tries a ladder, every second one after that a rung up or down.
    """
    if model.version == 0:
        return PENALTIES
    challenger = {1: model.penalty * PENALTY_STEP, 3: model.penalty / PENALTY_STEP}.get(model.version % 4)
    if challenger is None or not min(PENALTIES) <= challenger <= max(PENALTIES):
        return (model.penalty,)
    return (model.penalty, challenger)


@contextmanager
def _device_errors(device: str) -> Iterator[None]:
    """Tell what PyTorch raises of a device other than the CPU: out of memory, or lost, for this whole process."""
    try:
        yield
    except RuntimeError as error:
        if device == "cpu":
            raise
        raise DeviceLostError(f"training on {device} failed: {str(error).splitlines()[0]}") from error


def check_device(option: str, device: str) -> None:
    """Refuse a device that PyTorch does not see.

    Raises
    ------
    ConfigError
        Saying what it sees.
    """
    n_devices = torch.cuda.device_count()
    if int(device.partition(":")[2] or 0) >= n_devices:
        there = "only the CPU" if n_devices == 0 else f"cuda:0 to cuda:{n_devices - 1}"
        raise ConfigError(f"{option}: expected a device that PyTorch {torch.__version__} sees ({there}), got {device}")


def _column_penalty(n_columns: int, n_shots: int) -> float:
    """Return how fast the first-layer row of a column shrinks, per unit of learning rate and of strength.

    ``log(1 + d/16) sqrt(h / (d + 16)) min(1, 200 / n_shots)^(1/4)`` for d columns and h units: little for a few
    columns; more the more could matter by chance; in proportion to the length of a row at the start, ``sqrt(h / d)``;
    less as the data decide. A group lasso (Yuan and Lin 2006), as a proximal step.
    """
    size = math.sqrt(WIDTHS[0] / (n_columns + 16))
    return math.log1p(n_columns / 16) * size * math.sqrt(math.sqrt(min(1.0, 200 / n_shots)))


def _losses(logits: Tensor, counts: Tensor) -> Tensor:
    """Return the negative log-likelihood (n_members, n) of counts (n, n_states), constants left out."""
    if logits.shape[2] == 1:
        q = logits[:, :, 0]
        return counts[:, 0] * functional.softplus(q) + counts[:, 1] * functional.softplus(-q)
    return counts.sum(dim=1) * torch.logsumexp(logits, dim=2) - (counts * logits).sum(dim=2)


def _slopes(logits: Tensor, counts: Tensor) -> Tensor:
    """Return the derivatives of `_losses` by the logits, (n_members, n, n_outputs); counts may be each member's own."""
    total = counts.sum(dim=-1, keepdim=True)
    if logits.shape[2] == 1:
        return torch.sigmoid(logits) * total - counts[..., 1:]
    return torch.softmax(logits, dim=2) * total - counts


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Fit:
    """Flat weights (n_members, n_weights), and their mean held-out loss: infinite where nothing is held out."""

    weights: Tensor
    penalty: float
    epochs: int
    held_out_loss: float


def _fit(problem: _Problem, start: Committor, penalty: float, learning_rate: float, seed: int) -> _Fit:
    """Return for every member the averaged weights with the least held-out loss."""
    generator = torch.Generator().manual_seed(seed)  # of the CPU, so that every device draws the same batches
    device = problem.inputs.device
    weights = _flatten(start.weights).to(device)
    average, best = weights.clone(), weights.clone()
    best_loss = problem.held_out_loss(best)
    judged = ~np.isnan(best_loss)
    adam = _Adam(weights)
    n = len(problem.inputs)
    n_batches = min(max(1, n // MINIMUM_BATCH), max(MINIMUM_BATCHES, math.ceil(n / BATCH)))
    scale = n / float(problem.counts.sum())
    waited = epochs = 0
    while epochs < MAXIMUM_EPOCHS and waited < PATIENCE:
        for rows in torch.randperm(n, generator=generator).to(device).tensor_split(n_batches):
            adam.step(weights, problem.gradient(weights, rows, scale / len(rows)), learning_rate)
            problem.shrink(weights, learning_rate * penalty * problem.penalty)
        epochs += 1
        average.lerp_(weights, max(AVERAGING, 1.0 / epochs))
        losses = problem.held_out_loss(average)
        better = losses < best_loss - IMPROVEMENT
        improved = torch.from_numpy(better).to(device)
        best[improved] = average[improved]
        best_loss = np.where(better, losses, best_loss)
        waited = 0 if 2 * better.sum() >= max(1, judged.sum()) else waited + 1
    blind = torch.from_numpy(~judged).to(device)
    best[blind] = average[blind]
    held_out_loss = float(best_loss[judged].mean()) if judged.any() else math.inf
    return _Fit(weights=best.cpu(), penalty=penalty, epochs=epochs, held_out_loss=held_out_loss)


class _Adam:
    """Adam (Kingma and Ba 2015) on one tensor, with beta = (0.9, 0.99)."""

    def __init__(self, like: Tensor) -> None:
        self._first = torch.zeros_like(like)
        self._second = torch.zeros_like(like)
        self._n_steps = 0

    def step(self, weights: Tensor, gradient: Tensor, learning_rate: float) -> None:
        """Move the weights, in place."""
        self._n_steps += 1
        self._first.lerp_(gradient, 0.1)
        self._second.mul_(0.99).addcmul_(gradient, gradient, value=0.01)
        size = learning_rate * math.sqrt(1.0 - 0.99**self._n_steps) / (1.0 - 0.9**self._n_steps)
        weights.addcdiv_(self._first, self._second.sqrt().add_(1e-8), value=-size)


def _flatten(weights: tuple[Tensor, ...]) -> Tensor:
    """Return all weights of every member in one row, (n_members, n_weights)."""
    return torch.cat([weight.reshape(weight.shape[0], -1) for weight in weights], dim=1)


def _judge(
    model: Committor, data: TrainingData, held_out: NDArray[np.bool_]
) -> tuple[float, float, NDArray[np.float64]]:
    """Return training and held-out loss per shot on shooting points, and the held-out logits."""
    points = data.is_shooting_point
    counts = data.targets[points].astype(np.float64)
    logits = model.member_logits(data.features[points])
    held_out = held_out[:, points]

    def mean_over(members: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        share = members / np.maximum(members.sum(axis=0), 1)
        return np.einsum("mn,mn...->n...", share, logits), np.asarray(members.any(axis=0))

    def loss(mean: NDArray[np.float64], known: NDArray[np.bool_]) -> float:
        if not known.any():
            return math.nan
        log_p = np.log(np.maximum(probabilities(mean[known]), 1e-300))
        return float(-(counts[known] * log_p).sum() / counts[known].sum())

    trained, validated = mean_over(~held_out), mean_over(held_out)
    known = validated[1].reshape(-1, *[1] * (validated[0].ndim - 1))
    return loss(*trained), loss(*validated), np.where(known, validated[0], np.nan)
