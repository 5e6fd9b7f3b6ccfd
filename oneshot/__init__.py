"""Differentiable and one-shot neural architecture search on PyTorch Lightning."""

# `python -m oneshot` lets Python look for modules in the current folder before all others; `-m` stands in sys.argv only
# while it looks for ours. The folder may be a run of somebody else, so it comes last, before anything is imported.
import sys

if sys.argv[:1] == ["-m"] and not getattr(sys.flags, "safe_path", False):
    sys.path.append(sys.path.pop(0))

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING

from ._version import __version__ as __version__

if TYPE_CHECKING:
    from .cli.auto import AutoResult as AutoResult
    from .cli.auto import auto as auto
    from .conversion.supernet import convert as convert
    from .cost.profile import profile as profile
    from .deploy.export import export_subnet as export_subnet
    from .deploy.export import load as load
    from .deploy.hub import ExportedNetwork as ExportedNetwork
    from .engine.gradient import BilevelSearch as BilevelSearch
    from .engine.gradient import SingleLevelSearch as SingleLevelSearch
    from .engine.module import SearchModule as SearchModule
    from .engine.sandwich import SandwichSearch as SandwichSearch
    from .engine.sharing import WeightSharingSearch as WeightSharingSearch
    from .evaluation.accuracy import evaluate_configs as evaluate_configs
    from .methods.alphanet import AlphaNet as AlphaNet
    from .methods.betadarts import BetaDARTS as BetaDARTS
    from .methods.bignas import BigNAS as BigNAS
    from .methods.darts import DARTS as DARTS
    from .methods.dartsminus import DARTSMinus as DARTSMinus
    from .methods.dartspt import DARTSPT as DARTSPT
    from .methods.drnas import DrNAS as DrNAS
    from .methods.dsnas import DSNAS as DSNAS
    from .methods.enas import ENAS as ENAS
    from .methods.fairdarts import FairDARTS as FairDARTS
    from .methods.fairnas import FairNAS as FairNAS
    from .methods.fbnet import FBNet as FBNet
    from .methods.gdas import GDAS as GDAS
    from .methods.lambdadarts import LambdaDARTS as LambdaDARTS
    from .methods.ofa import OnceForAll as OnceForAll
    from .methods.oles import OLES as OLES
    from .methods.pcdarts import PCDARTS as PCDARTS
    from .methods.proxylessnas import ProxylessNAS as ProxylessNAS
    from .methods.random_sharing import RandomSharing as RandomSharing
    from .methods.robustdarts import RobustDARTS as RobustDARTS
    from .methods.smoothdarts import SmoothDARTS as SmoothDARTS
    from .methods.snas import SNAS as SNAS
    from .nat.nat import NAT as NAT
    from .training.language import RetrainLanguage as RetrainLanguage
    from .training.retrain import Retrain as Retrain


def _mount(name: str, folder: Path) -> None:
    """Make a folder beside this one the sub-package that it is where oneshot is installed."""
    full = f"{__name__}.{name}"
    spec = spec_from_file_location(full, folder / "__init__.py", submodule_search_locations=[str(folder)])
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder} is no package of oneshot; the checkout lacks a part.")
    module = sys.modules[full] = globals()[name] = module_from_spec(spec)
    spec.loader.exec_module(module)


# In a checkout that is not installed, supernets/ and callbacks/ lie beside this folder instead of in it. These two are
# mounted, and no other folder that happens to lie there.
for _name in ("supernets", "callbacks"):
    if not (Path(__file__).parent / _name).is_dir():
        _mount(_name, Path(__file__).parents[1] / _name)

from ._lazy import lazy  # noqa: E402  # after supernets/ is mounted

__getattr__, __dir__, _names = lazy(__name__)
__all__ = ["__version__", *_names]
