"""Training of one network, and what every training shares: tasks, checks, exact resuming."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneshot._lazy import lazy

if TYPE_CHECKING:
    from .batches import check_batch as check_batch
    from .batches import check_logits as check_logits
    from .finite_loss import check_data as check_data
    from .head import HeadFit as HeadFit
    from .head import fit_head as fit_head
    from .language import RetrainLanguage as RetrainLanguage
    from .resume import ResumableModule as ResumableModule
    from .retrain import Retrain as Retrain
    from .tasks import loss_of as loss_of
    from .tasks import metric_of as metric_of

__getattr__, __dir__, __all__ = lazy(__name__)
