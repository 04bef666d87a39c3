"""The network as a program of its own, which needs PyTorch and nothing of this package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from separatrix.committor import Committor, evaluate
from separatrix.errors import ExportError
from separatrix.export.files import check_ending, whole
from separatrix.observables import Observables
from separatrix.reader import Reader

NETWORK_ENDINGS: Final = (".pt2",)

METADATA: Final = "separatrix.json"
"""Name of the file with the metadata inside the program's."""


class _Program(nn.Module):
    """The ensemble with its scaling: descriptors (n, d) to logits and probabilities."""

    mean: Tensor
    inverse_scale: Tensor

    def __init__(self, model: Committor) -> None:
        super().__init__()
        self.register_buffer("mean", model.mean.clone())
        self.register_buffer("inverse_scale", model.inverse_scale.clone())
        for place, weight in enumerate(model.weights):
            self.register_buffer(f"weight{place:02}", weight.clone())
        self._n_weights, self._two = len(model.weights), model.n_outputs == 1

    def forward(self, descriptors: Tensor) -> dict[str, Tensor]:
        """Return q and p_B (n,) for two states, p (n, n_states) for more, in double precision."""
        weights = [self.get_buffer(f"weight{place:02}") for place in range(self._n_weights)]
        logits = evaluate(weights, (descriptors - self.mean) * self.inverse_scale).double().mean(dim=0)
        if self._two:
            q = logits[:, 0]
            return {"q": q, "p_B": torch.sigmoid(q)}
        return {"p": torch.softmax(logits, dim=1)}


def network_program(model: Committor) -> torch.export.ExportedProgram:
    """Return a model as a program: ``descriptors`` (n, d) float32, unscaled, to q and p_B (n,) float64.

    For more than two states it gives p (n, n_states).

    Parameters
    ----------
    model : of the committor
    """
    example = torch.zeros(2, len(model.columns))
    return torch.export.export(
        _Program(model).eval(), (example,), dynamic_shapes={"descriptors": {0: torch.export.Dim("n")}}
    )


def metadata(reader: Reader, model: Committor) -> dict[str, Any]:
    """Return what a program's user must know: its columns in order with their units, its states, what it gives."""
    observables = reader.observables
    columns: list[dict[str, str]] = []
    for place, name in enumerate(model.columns):
        column = {"name": name, "unit": ""}
        if isinstance(observables, Observables):
            form, definition = observables.descriptors.forms[place], observables.descriptors.definitions[place]
            value = f"(1 + {form}(v))/2" if form else "v"
            column = {"name": name, "unit": observables.descriptors.units[place], "v": definition, "value": value}
        columns.append(column)
    two = model.n_outputs == 1
    outputs = {"q": "logit ln(p_B / (1 - p_B)), (n,) float64", "p_B": f"probability of {model.states[1]}, (n,) float64"}
    return {
        "what": f"committor from {model.states[0]} to {model.states[1]}" if two else "committor",
        "input": {"descriptors": f"(n, {len(columns)}) float32, in the order of the columns, not scaled"},
        "columns": columns,
        "outputs": outputs if two else {"p": "probability of each state, (n, n_states) float64"},
        "states": list(model.states),
        "members": model.members,
        "model_version": model.version,
        "run": reader.folder.name,
    }


def write_network(reader: Reader, file: Path | str, *, version: int | None = None, force: bool = False) -> Committor:
    """Write a committor network with its scaling as a ``torch.export`` program; its metadata are in the same file.

    Parameters
    ----------
    reader : of the run
    file : ends in ``.pt2``
    version : of the model, the newest by default
    force : whether a file that is there may be replaced

    Returns
    -------
    Committor
        The model that was written.

    Raises
    ------
    ExportError
        If the run has no trained model, the ending is another, or there is a file already.

    Examples
    --------
    What was written needs PyTorch alone:

    >>> extra = {"separatrix.json": ""}
    >>> program = torch.export.load("committor.pt2", extra_files=extra)  # doctest: +SKIP
    >>> program.module()(descriptors)["p_B"]  # doctest: +SKIP
    """
    file = Path(file)
    check_ending(file, NETWORK_ENDINGS)
    if not reader.model_versions:
        raise ExportError(f"{reader.folder}: expected a trained committor, found none; sample more")
    model = reader.model(version)
    with whole(file, force=force) as folder:
        about = json.dumps(metadata(reader, model), indent=2)
        torch.export.save(network_program(model), folder / file.name, extra_files={METADATA: about})
    return model
