"""Zero-cost proxies: scores of networks that were not trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneshot._lazy import lazy

if TYPE_CHECKING:
    from oneshot.errors import NonFiniteScoreError as NonFiniteScoreError
    from oneshot.errors import NoScoreError as NoScoreError

    from .architectures import ArchitectureScorer as ArchitectureScorer
    from .architectures import ProxyFeatures as ProxyFeatures
    from .architectures import promising as promising
    from .aznas import AZ_NAS as AZ_NAS
    from .aznas import Expressivity as Expressivity
    from .aznas import Progressivity as Progressivity
    from .aznas import Trainability as Trainability
    from .aznas import az_nas as az_nas
    from .base import Batch as Batch
    from .base import Proxy as Proxy
    from .counts import Macs as Macs
    from .counts import Params as Params
    from .meco import Meco as Meco
    from .naswot import Jacov as Jacov
    from .naswot import Naswot as Naswot
    from .ranks import RankAgreement as RankAgreement
    from .ranks import combined as combined
    from .saliency import Fisher as Fisher
    from .saliency import GradNorm as GradNorm
    from .saliency import Grasp as Grasp
    from .saliency import Snip as Snip
    from .scoring import KINDS as KINDS
    from .scoring import proxies_of as proxies_of
    from .scoring import score as score
    from .swap import RegularisedSwap as RegularisedSwap
    from .swap import Swap as Swap
    from .synflow import Synflow as Synflow
    from .zen import Zen as Zen
    from .zico import Zico as Zico

__getattr__, __dir__, __all__ = lazy(__name__)
