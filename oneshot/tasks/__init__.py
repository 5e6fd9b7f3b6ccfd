"""What the outputs of a network are for: the loss, the metric and its direction, and how outputs become predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneshot._lazy import lazy

if TYPE_CHECKING:
    from .classification import Classification as Classification
    from .custom import CustomTask as CustomTask
    from .language import LanguageModelling as LanguageModelling
    from .multilabel import MultiLabel as MultiLabel
    from .regression import Regression as Regression
    from .segmentation import Segmentation as Segmentation
    from .task import IGNORED as IGNORED
    from .task import Task as Task
    from .task import task_of as task_of

__getattr__, __dir__, __all__ = lazy(__name__)
