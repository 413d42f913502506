"""What a run must not forget: its name, biases, moments, history; one file, atomically.

What was spent is in the ledger, not here.
"""

import io
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpbitfit import durable
from dpbitfit.errors import InputError

FILE = "checkpoint.npz"
_GROUPS = ("moments", "pooled")  # of arrays


@dataclass
class Checkpoint:
    """A run between two rounds.

    ``run`` is its name in the ledger; ``refused`` gives the reason of each site
    that was left out for good;
    ``moments`` are the wrapped strategy's own, by name; ``pooled`` the state of the
    coordinator's own steps.
    """

    run: str
    plan_digest: str
    biases: NDArray[np.float32]
    round: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    moments: dict[str, NDArray[Any]] = field(default_factory=dict)
    pooled: dict[str, NDArray[Any]] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Replace the file in ``folder`` durably: all of it or nothing."""
        state = asdict(self)
        arrays = {"biases": state.pop("biases")}
        for group in _GROUPS:
            arrays |= {f"{group}:{name}": value for name, value in state.pop(group).items()}
        buffer = io.BytesIO()
        np.savez(buffer, state=np.array(json.dumps(state)), **arrays)
        durable.replace(folder / FILE, buffer.getvalue())

    @classmethod
    def load(cls, folder: Path, plan_digest: str) -> "Checkpoint | None":
        """The saved run of this plan, or None where nothing was saved.

        Raises InputError for a damaged file, or one of another plan.
        """
        path = folder / FILE
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                state = json.loads(str(file["state"]))
                biases = file["biases"]
                groups: dict[str, Any] = {
                    group: {
                        name.removeprefix(f"{group}:"): file[name]
                        for name in file.files
                        if name.startswith(f"{group}:")
                    }
                    for group in _GROUPS
                }
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"{path} is damaged; restore it or start with another --out"
            ) from error
        if state["plan_digest"] != plan_digest:
            raise InputError(
                f"{path} belongs to another plan; give the settings it was made with, "
                "or another --out"
            )
        return cls(biases=biases, **groups, **state)
