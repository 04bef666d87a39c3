"""The trainer against known committors, with negative controls, and the laws of its schedule and its records."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from separatrix import trainer
from separatrix.committor import Committor
from separatrix.config import CommittorConfig
from separatrix.logits import probabilities
from separatrix.records import NO_STATE, Reason
from separatrix.trainer import (
    expected_efficiency,
    held_out_by,
    scaled_learning_rate,
    train,
    training_due,
)
from separatrix.training_data import FRAMES_PER_SHOT, HALF_WEIGHT, TrainingData, build_training_data, expected_targets

CONFIG = CommittorConfig(frames=True)
Columns = dict[str, NDArray[Any]]


def logistic(q: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1.0 / (1.0 + np.exp(-q))


def untrained(n_columns: int, states: str = "AB") -> Committor:
    return Committor.untrained([f"c{i}" for i in range(n_columns)], list(states))


def draws(q: NDArray[np.float64], features: NDArray[np.float64], rng: np.random.Generator) -> TrainingData:
    """Return two fair draws of the committor with logit q at every row, as shooting points."""
    n_b = rng.binomial(2, logistic(q))
    return shooting_points(features, np.stack([2 - n_b, n_b], axis=1))


def shooting_points(features: NDArray[np.float64], counts: NDArray[np.integer]) -> TrainingData:
    n = len(features)
    return TrainingData(
        features=features.astype(np.float32),
        targets=counts.astype(np.float32),
        weights=np.ones(n, np.float32),
        shot=np.arange(n),
        is_shooting_point=np.ones(n, bool),
    )


def fitted(data: TrainingData, *, seed: int = 1, states: str = "AB", config: CommittorConfig = CONFIG) -> Committor:
    return train(data, untrained(data.features.shape[1], states), seed=seed, efficiency=1.0, version=1, config=config)[
        0
    ]


def loss_on(model: Committor, data: TrainingData) -> float:
    return float(-(data.targets * np.log(model.probabilities(data.features))).sum() / data.targets.sum())


def calibration_slope(q: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """Return the slope that maps predicted to true logits with the greatest likelihood; below 1 for over-confidence."""
    slope = 1.0
    for _ in range(50):
        p = logistic(slope * q)
        slope += float((q * (logistic(truth) - p)).sum() / (q * q * p * (1 - p)).sum())
    return slope


# The schedule


def test_training_is_due_often_at_first_and_seldom_later() -> None:
    due, last = [], 0
    for n_shots in range(1, 3001):
        if training_due(n_shots, last):
            due.append(n_shots)
            last = n_shots
    gaps = np.diff([0, *due])
    assert due[0] == 10
    assert np.all(np.diff(gaps) >= 0)
    assert gaps[0] == 10
    assert gaps[-1] == 100
    assert sum(n <= 1000 for n in due) <= 25


@given(st.lists(st.tuples(st.floats(0, 0.5), st.booleans()), max_size=40), st.integers(10, 30))
def test_expected_efficiency_is_a_fraction_and_sees_only_its_window(
    shots: list[tuple[float, bool]], window: int
) -> None:
    p, true = [p for p, _ in shots], [true for _, true in shots]
    value = expected_efficiency(p, true, window)
    assert 0.0 <= value <= 1.0
    assert value == expected_efficiency([0.1] * window + p[-window:], [True] * window + true[-window:], window) or (
        len(shots) < window
    )


def test_expected_efficiency_of_no_promises_and_of_kept_ones() -> None:
    assert expected_efficiency([], [], 100) == 1.0
    assert expected_efficiency([0.5] * 9, [True] * 9, 100) == 1.0
    assert expected_efficiency([0.0] * 20, [True] * 20, 100) == 1.0
    assert expected_efficiency([0.5] * 20, [True, False] * 10, 100) == 0.0
    with pytest.raises(ValueError, match="one prediction per shot"):
        expected_efficiency([0.5] * 10, [True] * 9, 100)


def test_the_efficiency_scales_the_rate_down_to_a_floor() -> None:
    assert scaled_learning_rate(1.0, CONFIG) == CONFIG.learning_rate
    assert scaled_learning_rate(0.5, CONFIG) == pytest.approx(0.5 * CONFIG.learning_rate)
    assert scaled_learning_rate(0.0, CONFIG) == CONFIG.minimum_learning_rate


@given(st.integers(1, 8), st.floats(0.05, 0.9), st.integers(0, 10**9))
def test_held_out_shots_stay_so_and_are_spread_evenly(members: int, fraction: float, start: int) -> None:
    shot = np.arange(start, start + 400)
    out = held_out_by(shot, members, fraction)
    assert np.array_equal(held_out_by(shot[100:150], members, fraction), out[:, 100:150])
    assert np.all(np.abs(out.mean(axis=1) - fraction) < 0.02)


# The records


def walks(n_shots: int, rng: np.random.Generator) -> tuple[Columns, Columns]:
    """Return shots of a symmetric random walk from x in -2..8 between the states x = -3 and x = 10, as stored columns.

    Transitions keep every frame, the halves of others about 12, as a store thins them. p_B = (x + 3) / 13.
    """
    ends = np.zeros((n_shots, 2), np.int8)
    features, shots, offsets = [], [], []
    for shot in range(n_shots):
        start = int(rng.integers(-2, 9))
        halves = []
        for half in range(2):
            steps = start + np.cumsum(rng.choice([-1, 1], 4000))
            end = int(np.argmax((steps <= -3) | (steps >= 10)))
            ends[shot, half] = steps[end] >= 10
            halves.append(steps[: end + 1])
        for sign, steps in zip((-1, 1), halves, strict=True):
            every = 1 if ends[shot, 0] != ends[shot, 1] else 1 + len(steps) // 12
            kept = np.arange(every, len(steps) + 1, every)
            features.append(steps[kept - 1])
            offsets.append(sign * kept)
            shots.append(np.full(len(kept), shot))
        features.append(np.array([start]))
        offsets.append(np.array([0]))
        shots.append(np.array([shot]))
    order = rng.permutation(sum(len(part) for part in shots))
    frames = {
        "features": np.concatenate(features).astype(np.float32)[order, None],
        "shot": np.concatenate(shots).astype(np.int32)[order],
        "offset": np.concatenate(offsets).astype(np.int32)[order],
    }
    return {"ends": ends, "reason": np.zeros(n_shots, np.int8)}, frames


def weighted_bias(data: TrainingData, weights: NDArray[np.floating]) -> float:
    """Return the mean of (outcome - p_B) over the frames between the states."""
    x = data.features[:, 0]
    inside = ~data.is_shooting_point & (x > -3) & (x < 10)
    residual = data.targets[:, 1] - (x + 3) / 13
    return float(np.average(residual[inside], weights=weights[inside]))


@pytest.mark.statistics
def test_thinned_frames_are_fair_draws_and_frames_weighted_by_half_are_not() -> None:
    shots, frames = walks(3000, np.random.default_rng(5))
    data = build_training_data(shots=shots, frames=frames, n_states=2, config=CONFIG)
    assert abs(weighted_bias(data, data.weights)) < 0.02  # two standard errors: 6,000 halves, each a single outcome
    half = 2 * data.shot + (data.targets[:, 1] > 0)
    per_half = data.weights / np.bincount(half, weights=data.weights)[half]
    assert abs(weighted_bias(data, per_half)) > 0.03


@pytest.mark.statistics
def test_what_is_expected_of_a_frame_is_fair_and_less_subject_to_chance_than_what_came() -> None:
    shots, frames = walks(3000, np.random.default_rng(5))
    data = build_training_data(shots=shots, frames=frames, n_states=2, config=CONFIG)
    x, points = data.features[:, 0], data.is_shooting_point
    exact = np.clip((x + 3) / 13, 0, 1)
    inside = ~points & (x > -3) & (x < 10)
    n_ends = data.targets.sum(axis=1)

    def residuals(trace: float, p: NDArray[np.floating]) -> NDArray[np.float64]:
        return expected_targets(data, np.stack([1 - p, p], axis=1)[None], trace)[0, :, 1] / n_ends - exact

    came, expected = residuals(1.0, exact), residuals(0.7, exact)
    for rows in (inside, points):
        assert abs(np.average(expected[rows], weights=data.weights[rows])) < 0.02
        assert expected[rows].std() < 0.75 * came[rows].std()
    ignorant = residuals(0.0, np.full(len(x), 0.5))  # control: predictions do count
    assert abs(np.average(ignorant[inside & (x < 0)])) > 0.04


def test_expected_targets_mix_each_end_with_what_is_predicted_for_the_records_before_it() -> None:
    shots = {"ends": np.array([[0, 1], [1, 1]], np.int8), "reason": np.zeros(2, np.int8)}
    offset, shot = np.array([0, -1, -2, 1, 0]), np.array([0, 0, 0, 0, 1])
    frames = {"features": np.arange(5, dtype=np.float32)[:, None], "shot": shot, "offset": offset}
    data = build_training_data(shots=shots, frames=frames, n_states=2, config=CONFIG)
    assert data.features[:, 0].tolist() == [0, 4, 1, 2, 3]
    assert data.onward is not None
    assert data.onward.tolist() == [[2, 4], [-1, -1], [3, -1], [-1, -1], [-1, -1]]
    p = np.array([0.5, 0.5, 0.4, 0.2, 0.7])
    predicted = np.stack([1 - p, p], axis=1)
    for trace in (1.0, 0.5, 0.0):
        back = (1 - trace) * 0.2  # of the frame at -1: the half ends in A, and p_B of the frame at -2 is 0.2
        point = trace * back + (1 - trace) * 0.4 + trace * 1.0 + (1 - trace) * 0.7
        found = expected_targets(data, np.stack([predicted, predicted]), trace)
        assert found[1, :, 1] == pytest.approx([point, 2.0, back, 0.0, 1.0])
        assert found.sum(axis=2) == pytest.approx(np.broadcast_to(data.targets.sum(axis=1), (2, 5)))
    alone = build_training_data(shots=shots, frames=frames, n_states=2, config=CommittorConfig(frames=False))
    assert alone.onward is None
    assert np.array_equal(expected_targets(alone, predicted[None, :2], 0.0)[0], alone.targets)


def test_frames_keep_their_share_of_the_weight() -> None:
    shots, frames = walks(200, np.random.default_rng(2))
    data = build_training_data(shots=shots, frames=frames, n_states=2, config=CONFIG)
    points = data.is_shooting_point
    assert points.sum() == 200
    assert np.array_equal(data.shot[points], np.arange(200))
    assert np.all(data.targets[points].sum(axis=1) == 2)
    assert np.all(data.targets[~points].sum(axis=1) == 1)
    assert data.weights[~points].sum() == pytest.approx(HALF_WEIGHT * 400, rel=1e-4)
    assert (~points).sum() <= FRAMES_PER_SHOT * 200
    alone = build_training_data(shots=shots, frames=frames, n_states=2, config=CommittorConfig(frames=False))
    assert alone.is_shooting_point.all()
    assert np.array_equal(alone.targets, data.targets[points])


def test_each_half_labels_its_own_frames() -> None:
    shots = {
        "ends": np.array([[0, 2], [1, NO_STATE], [NO_STATE, NO_STATE], [0, 1]], np.int8),
        "reason": np.array([Reason.ACCEPTED, Reason.TOO_LONG, Reason.TOO_LONG, Reason.FAILURE], np.int8),
    }
    offset = np.array([-1, 0, 1, -1, 0, 1, -1, 0, 1, 0])
    shot = np.repeat([0, 1, 2, 3], [3, 3, 3, 1])
    frames = {"features": np.arange(10, dtype=np.float32)[:, None], "shot": shot, "offset": offset}
    data = build_training_data(shots=shots, frames=frames, n_states=3, config=CONFIG)
    found = {int(x): targets.tolist() for x, targets in zip(data.features[:, 0], data.targets, strict=True)}
    assert found == {1: [1, 0, 1], 4: [0, 1, 0], 0: [1, 0, 0], 2: [0, 0, 1], 3: [0, 1, 0]}
    assert np.flatnonzero(data.is_shooting_point).tolist() == [0, 1]


def test_a_shot_without_its_shooting_point_and_features_that_are_no_numbers_are_refused() -> None:
    shots = {"ends": np.array([[0, 1]]), "reason": np.array([0])}
    frames = {"features": np.zeros((1, 1)), "shot": np.array([0]), "offset": np.array([1])}
    with pytest.raises(ValueError, match=r"offset 0 for every shot.*\[0\]"):
        build_training_data(shots=shots, frames=frames, n_states=2, config=CONFIG)
    with pytest.raises(ValueError, match="nan in column 1 of shot 2"):
        shooting_points(np.array([[0, 0], [0, 0], [0, np.nan]]), np.ones((3, 2), int))


# Training


def test_the_same_arguments_give_the_same_bytes() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 4))
    data = draws(x[:, 0], x, rng)
    first = fitted(data).to_bytes()
    assert fitted(data).to_bytes() == first
    assert fitted(data, seed=2).to_bytes() != first
    again = [
        train(data, Committor.from_bytes(first), seed=1, efficiency=0.1, version=2, config=CONFIG)[0].to_bytes()
        for _ in range(2)
    ]
    assert again[0] == again[1] != first


@pytest.mark.statistics
def test_a_restart_frees_the_model_from_what_a_few_shots_made_it_believe() -> None:
    """Ten shots of 22 columns agree with many of them by chance; the model after them begins from there."""
    rng = np.random.default_rng(4)
    x, fresh = rng.normal(size=(200, 22)), rng.normal(size=(4000, 22))
    truth = 2.0 * x[:, 0]
    data, first = draws(truth, x, rng), draws(truth[:10], x[:10], rng)
    misled = fitted(first)
    errors = {}
    for restart in (False, True):
        model, _ = train(data, misled, seed=1, efficiency=0.02, version=2, config=CONFIG, restart=restart)
        errors[restart] = np.sqrt(np.mean((model.p_B(fresh) - logistic(2.0 * fresh[:, 0])) ** 2))
    assert errors[True] < 0.8 * errors[False]


@pytest.mark.statistics
def test_it_finds_a_known_committor_among_nuisance_columns_without_overconfidence() -> None:
    rng = np.random.default_rng(3)
    x, fresh = rng.normal(size=(800, 22)), rng.normal(size=(4000, 22))

    def truth(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return 2.0 * np.tanh(1.5 * x[:, 0]) + x[:, 1]

    data, test = draws(truth(x), x, rng), draws(truth(fresh), fresh, rng)
    model, report = train(data, untrained(22), seed=1, efficiency=1.0, version=1, config=CONFIG)
    error = np.sqrt(np.mean((model.p_B(fresh) - logistic(truth(fresh))) ** 2))
    assert error < 0.1
    best = -np.mean(logistic(truth(fresh)) * np.log(logistic(truth(fresh)))) * 2
    assert best < loss_on(model, test) < best + 0.03
    # What it says of itself, on shots held out, is what new shots show.
    assert report.validation_loss == pytest.approx(loss_on(model, test), abs=0.05)
    assert 0.8 < calibration_slope(model.q(fresh), truth(fresh)) < 1.2
    # Control: twice the logits, an over-confident model, is noticed.
    assert calibration_slope(2 * model.q(fresh), truth(fresh)) < 0.8
    assert np.isfinite(report.held_out_q).all()


@pytest.mark.statistics
def test_outcomes_that_depend_on_nothing_teach_nothing() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(300, 55))
    model, report = train(draws(np.zeros(300), x, rng), untrained(55), seed=1, efficiency=1.0, version=1, config=CONFIG)
    assert abs(report.validation_loss - np.log(2)) < 0.04
    assert np.abs(model.q(rng.normal(size=(500, 55)))).max() < 0.7


@pytest.mark.statistics
def test_three_states() -> None:
    rng = np.random.default_rng(5)
    x, fresh = rng.normal(size=(1500, 2)), rng.normal(size=(1000, 2))

    def truth(x: NDArray[np.float64]) -> NDArray[np.float64]:
        weights = np.exp(np.column_stack([2 * x[:, 0], 2 * x[:, 1], -x[:, 0] * x[:, 1]]))
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))

    data = shooting_points(x, rng.multinomial(2, truth(x)))
    model, report = train(data, untrained(2, "ABC"), seed=1, efficiency=1.0, version=1, config=CONFIG)
    assert np.sqrt(np.mean((model.probabilities(fresh) - truth(fresh)) ** 2)) < 0.05
    assert report.validation_loss < np.log(3)
    assert report.held_out_q.shape == (1500, 3)
    held_out = probabilities(report.held_out_q)
    assert np.sqrt(np.mean((held_out - truth(x)) ** 2)) < 0.05
    assert np.sqrt(np.mean((held_out - np.roll(truth(x), 1, axis=1)) ** 2)) > 0.2


@pytest.mark.parametrize("n", [1, 2, 7])
def test_a_handful_of_shots_is_enough_to_begin(n: int) -> None:
    rng = np.random.default_rng(6)
    x = rng.normal(size=(n, 3))
    model, report = train(draws(x[:, 0], x, rng), untrained(3), seed=1, efficiency=1.0, version=1, config=CONFIG)
    assert np.isfinite(model.q(x)).all()
    assert report.n_shots == n
    assert report.version == model.version == 1


def test_the_size_of_the_ensemble_is_the_configured_one() -> None:
    rng = np.random.default_rng(6)
    x = rng.normal(size=(20, 3))
    for members in (1, 6):
        assert fitted(draws(x[:, 0], x, rng), config=CommittorConfig(members=members, frames=True)).members == members


@pytest.mark.parametrize(("n_columns", "states"), [(4, "AB"), (3, "ABC")])
def test_data_of_another_model_are_refused(n_columns: int, states: str) -> None:
    data = shooting_points(np.zeros((5, 3)), np.ones((5, 2), int))
    with pytest.raises(ValueError, match="expected shooting points with"):
        train(data, untrained(n_columns, states), seed=1, efficiency=1.0, version=1, config=CONFIG)


def test_a_new_input_scaling_changes_no_prediction_and_constant_columns_get_none() -> None:
    rng = np.random.default_rng(7)
    x = rng.normal(size=(100, 3))
    x[:, 2] = 0.1 + 1e-7 * x[:, 2]
    model = fitted(draws(x[:, 0], x, rng))
    assert model.inverse_scale[2] == 0.0
    moved = x * np.array([3.0, 1.0, 1.0]) + np.array([5.0, 0.0, 0.0])
    rescaled = trainer._standardised(moved.astype(np.float32), model, anew=False)
    assert rescaled is not model
    assert rescaled.mean[0] == pytest.approx(moved[:, 0].mean(), rel=1e-5)
    assert np.allclose(rescaled.member_logits(moved), model.member_logits(moved), atol=1e-4)
    shifted = (x + np.array([0.1, 0.0, 0.0])).astype(np.float32)
    assert trainer._standardised(shifted, model, anew=False) is model
    anew = trainer._standardised(shifted, model, anew=True)
    assert anew.mean[0] == pytest.approx(shifted[:, 0].mean(), rel=1e-5)
    assert np.allclose(anew.member_logits(x), model.member_logits(x), atol=1e-4)


# A landscape


def shoot(x: NDArray[np.float64], rng: np.random.Generator) -> tuple[NDArray[np.int64], list[NDArray[np.float64]]]:
    """Return the end states of Brownian trajectories from x (n, 2) on Hummer-Szabo, b = 4 kT, and frames every 0.02."""
    x, ends, frames = x.copy(), np.full(len(x), NO_STATE), []
    dt = 1e-3
    for step in range(1, 20_001):
        slope_x = 16 * x[:, 0] * (x[:, 0] ** 2 - 1) + 8 * (x[:, 0] - x[:, 1])
        force = np.stack([-slope_x, 8 * (x[:, 0] - x[:, 1])], axis=1)
        going = ends == NO_STATE
        x += going[:, None] * (dt * force + np.sqrt(2 * dt) * rng.normal(size=x.shape))
        if step % 20 == 0:
            frames.append(np.where(going[:, None], x, np.nan))
            for state, centre in enumerate((-1.0, 1.0)):
                ends[going & (((x - centre) ** 2).sum(axis=1) < 0.0625)] = state
            if not (ends == NO_STATE).any():
                break
    return ends, frames


@pytest.mark.statistics
@pytest.mark.slow
def test_a_brownian_landscape_against_brute_force() -> None:
    rng = np.random.default_rng(8)
    n = 1000
    along = rng.uniform(-0.15, 0.15, n)
    points = np.stack([along, along], axis=1) + rng.normal(0, 0.1, (n, 2))
    halves = [shoot(points, rng) for _ in range(2)]
    parts = [(points, np.arange(n), np.zeros(n, int))]
    for sign, (_, frames) in zip((-1, 1), halves, strict=True):
        for place, x in enumerate(frames, start=1):
            there = np.flatnonzero(np.isfinite(x[:, 0]))
            parts.append((x[there], there, np.full(len(there), sign * place)))
    features, shot, offset = (np.concatenate(column) for column in zip(*parts, strict=True))
    shots = {"ends": np.stack([ends for ends, _ in halves], axis=1), "reason": np.zeros(n, int)}
    stored = {"features": features.astype(np.float32), "shot": shot, "offset": offset}

    ahead = rng.uniform(-0.6, 0.6, 40)
    tested = np.stack([ahead, ahead], axis=1) + rng.normal(0, 0.3, (40, 2))
    ends, _ = shoot(np.repeat(tested, 200, axis=0), rng)
    sampled = (ends == 1).reshape(40, 200).mean(axis=1)
    errors = {}
    for frames_too in (True, False):
        config = CommittorConfig(frames=frames_too)
        data = build_training_data(shots=shots, frames=stored, n_states=2, config=config)
        errors[frames_too] = float(np.sqrt(np.mean((fitted(data, config=config).p_B(tested) - sampled) ** 2)))
    noise = np.sqrt(np.mean(sampled * (1 - sampled)) / 200)
    assert errors[True] < np.hypot(0.05, noise)
    # Control: shooting points near the separatrix say little about the sides, where half of the tests lie.
    assert errors[True] < errors[False]
