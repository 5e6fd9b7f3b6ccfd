"""Data for searches: images, series, tables, arrays, plain text, and the split into weight and architecture streams.

The names are imported on first use (PEP 562), so ``import oneshot.data`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneshot._lazy import lazy

if TYPE_CHECKING:
    from .arrays import ArrayData as ArrayData
    from .base import LabelledData as LabelledData
    from .base import class_weights as class_weights
    from .folder import ImageFolder as ImageFolder
    from .images import Augmentation as Augmentation
    from .images import ImageSet as ImageSet
    from .images import channel_statistics as channel_statistics
    from .images import stratified_split as stratified_split
    from .search import SearchDataModule as SearchDataModule
    from .segmentation import JointAugmentation as JointAugmentation
    from .segmentation import SegmentationData as SegmentationData
    from .segmentation import SegmentationFolder as SegmentationFolder
    from .segmentation import Shapes as Shapes
    from .segmentation import write_shapes as write_shapes
    from .series import SeriesAugmentation as SeriesAugmentation
    from .series import TimeSeries as TimeSeries
    from .tables import TableData as TableData
    from .tables import encode_table as encode_table
    from .text import TextData as TextData
    from .text import TextSearchData as TextSearchData
    from .text import Vocabulary as Vocabulary
    from .vision import CIFAR10 as CIFAR10
    from .vision import CIFAR100 as CIFAR100
    from .vision import Digits as Digits
    from .vision import FakeImages as FakeImages
    from .vision import FashionMNIST as FashionMNIST
    from .vision import VisionData as VisionData

__getattr__, __dir__, __all__ = lazy(__name__)
