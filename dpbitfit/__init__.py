"""DP-BiTFiT: private training of a model's bias terms, and what it costs in privacy.

Every name below is loaded on first use: ``import dpbitfit`` alone imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpbitfit.accounting.calibration import calibrate as calibrate
    from dpbitfit.accounting.composition import epsilon as epsilon
    from dpbitfit.accounting.mechanism import Mechanism as Mechanism
    from dpbitfit.engine.biases import select_biases as select_biases
    from dpbitfit.engine.clipping import AbadiClipping as AbadiClipping
    from dpbitfit.engine.clipping import AutomaticClipping as AutomaticClipping
    from dpbitfit.engine.groups import ByKind as ByKind
    from dpbitfit.engine.groups import HeadAndBiases as HeadAndBiases
    from dpbitfit.engine.groups import PerLayer as PerLayer
    from dpbitfit.engine.groups import PerStage as PerStage
    from dpbitfit.engine.groupwise import AdaptiveClipping as AdaptiveClipping
    from dpbitfit.engine.groupwise import GroupwiseClipping as GroupwiseClipping
    from dpbitfit.engine.optimizers import Adam as Adam
    from dpbitfit.engine.optimizers import Sgd as Sgd
    from dpbitfit.engine.ranks import Ranks as Ranks
    from dpbitfit.engine.trainer import PrivateTrainer as PrivateTrainer
    from dpbitfit.errors import AccountingError as AccountingError
    from dpbitfit.errors import BudgetError as BudgetError
    from dpbitfit.errors import DpbitfitError as DpbitfitError
    from dpbitfit.errors import InputError as InputError
    from dpbitfit.errors import LedgerError as LedgerError
    from dpbitfit.errors import ModelError as ModelError
    from dpbitfit.errors import ProtocolError as ProtocolError
    from dpbitfit.ledger import Ledger as Ledger
    from dpbitfit.predict import Prediction as Prediction
    from dpbitfit.predict import Predictor as Predictor
    from dpbitfit.predict import load as load

__version__ = "0.1.0"
__all__ = [
    "AbadiClipping",
    "AccountingError",
    "Adam",
    "AdaptiveClipping",
    "AutomaticClipping",
    "BudgetError",
    "ByKind",
    "DpbitfitError",
    "GroupwiseClipping",
    "HeadAndBiases",
    "InputError",
    "Ledger",
    "LedgerError",
    "Mechanism",
    "ModelError",
    "PerLayer",
    "PerStage",
    "Prediction",
    "Predictor",
    "PrivateTrainer",
    "ProtocolError",
    "Ranks",
    "Sgd",
    "calibrate",
    "epsilon",
    "load",
    "select_biases",
]

_MODULES = {
    "AbadiClipping": "engine.clipping",
    "Adam": "engine.optimizers",
    "AdaptiveClipping": "engine.groupwise",
    "AutomaticClipping": "engine.clipping",
    "ByKind": "engine.groups",
    "GroupwiseClipping": "engine.groupwise",
    "HeadAndBiases": "engine.groups",
    "Ledger": "ledger",
    "Mechanism": "accounting.mechanism",
    "PerLayer": "engine.groups",
    "PerStage": "engine.groups",
    "Prediction": "predict",
    "Predictor": "predict",
    "PrivateTrainer": "engine.trainer",
    "Ranks": "engine.ranks",
    "Sgd": "engine.optimizers",
    "calibrate": "accounting.calibration",
    "epsilon": "accounting.composition",
    "load": "predict",
    "select_biases": "engine.biases",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'dpbitfit' has no attribute {name!r}")
    value = getattr(import_module(f"dpbitfit.{_MODULES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
