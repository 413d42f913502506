"""Plans for tests: every setting has a value here, and a test names those that matter to it."""

import hashlib
import json
from contextlib import suppress
from typing import Any

from dpbitfit.errors import InputError
from dpbitfit.phases import BiasPhase
from dpbitfit.plan import ModelIdentity, Plan, SiteMetrics, TaskChoice
from dpbitfit.schema import build

_SETTINGS: dict[str, Any] = {
    "layout_digest": "0" * 64,
    "model_digest": "1" * 64,
    "noise_multiplier": 1.0,
    "sampling_rate": 0.1,
    "rounds": 3,
    "steps_per_round": 4,
    "delta": 1e-5,
    "clipping": "automatic",
    "clipping_norm": 1.0,
    "noise": "discrete-gaussian",
    "optimizer": "adam",
    "learning_rate": 6e-3,
    "unit": "record",
    "dataset": "",
    "model": "minilm",
    "task": "text-classification",
    "head": "labels",
    "logit_scale": 20.0,
    "max_length": 128,
    "metrics": "",  # separated by commas
    "evaluations": 0,
}


_PHASE = ("phases", 0)
# Where each setting stands in a plan's JSON.
_PLACES: dict[str, tuple[Any, ...]] = {
    "phase": _PHASE,
    "layout_digest": ("model", "layout"),
    "model_digest": ("model", "digest"),
    "model": ("model", "name"),
    "task": ("task", "name"),
    **{name: (*_PHASE, name) for name in ("rounds", "steps_per_round", "sampling_rate")},
    "noise_multiplier": (*_PHASE, "noise", "multiplier"),
    "noise": (*_PHASE, "noise", "kind"),
    "clipping": (*_PHASE, "clipping", "function"),
    "clipping_norm": (*_PHASE, "clipping", "norm"),
    "clipping_part": (*_PHASE, "clipping"),
    "optimizer": (*_PHASE, "optimizer", "name"),
    "learning_rate": (*_PHASE, "optimizer", "learning_rate"),
    **{name: (name,) for name in ("delta", "unit", "dataset")},
    **{name: ("task", "settings", name) for name in ("head", "logit_scale", "max_length")},
    "metrics": ("site_metrics", "names"),
    "evaluations": ("site_metrics", "evaluations"),
}


def plan(base: Plan | None = None, /, **changes: Any) -> Plan:
    """A plan of one phase with these flat settings, and the others as in ``base``."""
    settings = {**(_settings(base) if base else _SETTINGS), **changes}
    return Plan.checked(
        dataset=settings["dataset"],
        unit=settings["unit"],
        delta=settings["delta"],
        model=ModelIdentity.checked(
            name=settings["model"],
            digest=settings["model_digest"],
            layout=settings["layout_digest"],
        ),
        task=TaskChoice(
            name=settings["task"],
            settings={name: settings[name] for name in ("head", "logit_scale", "max_length")},
        ),
        phases=(_phase(settings),),
        site_metrics=SiteMetrics.checked(
            names=_names(settings["metrics"]),
            evaluations=settings["evaluations"],
        ),
    )


def phase(base: BiasPhase | None = None, /, **changes: Any) -> BiasPhase:
    """A phase with these flat settings, and the others as in ``base``."""
    return _phase({**_SETTINGS, **(_of_phase(base) if base else {}), **changes})


def forged(base: Plan, /, **changes: Any) -> Any:
    """A plan with these settings, whether or not they can be."""
    if changes.keys() <= _SETTINGS.keys():
        with suppress(InputError):
            return plan(base, **changes)
    return Forged(base, **changes)


class Forged:
    """A plan that no honest program makes: another's JSON with some settings changed, unchecked."""

    def __init__(self, base: Plan, **changes: Any) -> None:
        self._base = base
        self._tree = json.loads(base.encode())
        for name, value in changes.items():
            *path, last = _PLACES[name]
            inner = self._tree
            for part in path:
                inner = inner[part]
            inner[last] = _names(value) if name == "metrics" else value

    def encode(self) -> bytes:
        return json.dumps(self._tree, sort_keys=True, separators=(",", ":")).encode()

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.encode()).hexdigest()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._base, name)


def _names(metrics: str) -> tuple[str, ...]:
    return tuple(metrics.split(",")) if metrics else ()


def _phase(settings: dict[str, Any]) -> BiasPhase:
    return build(BiasPhase, {name.replace("_", "-"): value for name, value in settings.items()})


def _settings(plan: Plan) -> dict[str, Any]:
    return {
        **_of_phase(plan.phases[0]),
        **plan.task.settings,
        "layout_digest": plan.model.layout,
        "model_digest": plan.model.digest,
        "delta": plan.delta,
        "unit": plan.unit,
        "dataset": plan.dataset,
        "model": plan.model.name,
        "task": plan.task.name,
        "metrics": ",".join(plan.site_metrics.names),
        "evaluations": plan.site_metrics.evaluations,
    }


def _of_phase(phase: BiasPhase) -> dict[str, Any]:
    return {
        "noise_multiplier": phase.noise.multiplier,
        "noise": phase.noise.kind,
        "sampling_rate": phase.sampling_rate,
        "rounds": phase.rounds,
        "steps_per_round": phase.steps_per_round,
        "clipping": phase.clipping.function,
        "clipping_norm": getattr(phase.clipping, "norm", 1.0),
        "optimizer": phase.optimizer.name,
        "learning_rate": phase.optimizer.learning_rate,
    }
