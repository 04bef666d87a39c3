"""Results of analyses as tables in the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from separatrix.progress import clock

if TYPE_CHECKING:  # they bring torch, which a mistyped option must not wait for
    from separatrix.estimates import Bounds, Estimate, Scores
    from separatrix.mechanism import Mechanism
    from separatrix.prediction import CrossPrediction, Prediction
    from separatrix.validation import Validation

_MOST_GROUPS = 10


def print_mechanism(run: Path, mechanism: Mechanism) -> None:
    """Print the most relevant groups of inputs, and the formulas."""
    console = Console()
    relevance = Table(box=None, pad_edge=False, title="Relevance", title_justify="left")
    relevance.add_column("inputs shuffled together", overflow="fold")
    relevance.add_column("rise of the loss", justify="right", no_wrap=True)
    relevance.add_column("share along paths", justify="right", no_wrap=True)
    for row in mechanism.groups[:_MOST_GROUPS]:
        share = "-" if row.gradient is None else f"{row.gradient:.2f} ± {row.gradient_std:.2f}"
        style = None if row.significant else "dim"
        relevance.add_row(Text(row.name), f"{row.mean:.4f} ± {row.std:.4f}", share, style=style)
    console.print(relevance)
    n_above, n_groups = sum(row.significant for row in mechanism.groups), len(mechanism.groups)
    console.print(
        f"{n_above} of {n_groups} are above the noise, {mechanism.noise_line:.4f}\n", style="dim", highlight=False
    )
    formulas = Table(box=None, pad_edge=False, title="Formulas", title_justify="left")
    formulas.add_column("complexity", justify="right")
    formulas.add_column("logit q of the committor to B", overflow="fold")
    formulas.add_column("training loss", justify="right")
    formulas.add_column("held-out loss", justify="right")
    for formula in mechanism.formulas:
        style = "bold" if formula.expression == mechanism.recommended else None
        losses = (f"{formula.training_loss:.4f}", f"{formula.validation_loss:.4f}")
        formulas.add_row(str(formula.complexity), Text(formula.expression), *losses, style=style)
    console.print(formulas)
    notes = [f"recommended: q = {mechanism.recommended}; longer ones gain less than their constants cost"]
    notes.append(f"the network's held-out loss on the same shots: {mechanism.network_loss:.4f}")
    notes.append(f"stored in {run}, with everything else: separatrix explain {run} --json")
    console.print(Text("\n".join(notes), style="dim"))


def print_validation(run: Path, validation: Validation) -> None:
    """Print how well the network and the formulas of a run foretold where trajectories end."""
    console = Console()
    n_ends, bounds = validation.n_ends, validation.bounds
    console.print(_scores_table(validation.scores, bounds, "Against new trajectories"))
    limits = f"{bounds.null_loss:.4f} for a constant, {bounds.saturated_loss:.4f} for the observed frequencies"
    notes = [
        f"loss: {limits}",
        "RMSE: of p_B, the noise of counting taken off; R^2: 1 - residual / spread of the observed frequencies",
    ]
    notes.append(
        f"{len(n_ends)} configurations drawn with model {validation.drawn_with}; {int(n_ends.sum()):,} trajectories "
        f"ended in a state, {int(validation.n_neither.sum()):,} in neither within max_frames, "
        f"{int(validation.n_failed.sum()):,} failed; {validation.md_steps:,} MD steps in "
        f"{clock(validation.seconds)} of workers"
    )
    notes.append(f"stored in {run} as validation {validation.number}")
    console.print(Text("\n".join(notes), style="dim"))


def print_cross_predictions(found: Sequence[CrossPrediction]) -> None:
    """Print how well two runs predict each other's shots."""
    console = Console()
    for each in found:
        title = f"{each.predicting} on the shots of {each.predicted}"
        console.print(_scores_table(each.scores, each.bounds, title, frequencies=False))
        bounds = each.bounds
        counted = f"{bounds.n_points:,} shots, {bounds.n_trials:,} trajectories"
        limits = f"loss of a constant {bounds.null_loss:.4f}, of every shot's own outcome {bounds.saturated_loss:.4f}"
        notes = [f"{counted}; {limits}", "entropy: the loss if every predicted probability were right"]
        if not each.same_system:
            notes.append("the runs differ in their systems: [system] of their config.toml")
        console.print(Text("\n".join(notes) + "\n", style="dim"))


def _scores_table(
    scores: Iterable[tuple[Prediction, Scores]], bounds: Bounds, title: str, *, frequencies: bool = True
) -> Table:
    """Return a table with a row for each predictor, formulas by their complexity as `print_mechanism` lists them.

    A shot has too few trajectories to compare frequencies.
    """
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    table.add_column("predictor", no_wrap=True)
    names = ("R^2", "RMSE", "loss", "slope") if frequencies else ("loss", "entropy", "slope", "intercept")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for prediction, score in scores:
        slope = _with_error(score.slope, 2)
        if frequencies:
            cells = [_with_error(score.r_squared, 2), _with_error(score.rmse, 3), _number(score.loss.value, 4), slope]
        else:
            cells = [_with_error(score.loss, 4), _number(score.entropy, 4), slope, _with_error(score.intercept, 2)]
        name = prediction.name if prediction.expression is None else f"formula of complexity {prediction.complexity}"
        table.add_row(name, *cells, style="bold" if prediction.recommended else None)
    if frequencies:
        table.add_row("perfect (noise ceiling)", _with_error(bounds.ceiling, 2), "0", "", "1", style="dim")
    return table


def _with_error(estimate: Estimate, digits: int) -> str:
    value = _number(estimate.value, digits)
    return f"{value} ± {estimate.error:.{digits}f}" if math.isfinite(estimate.value + estimate.error) else value


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"
