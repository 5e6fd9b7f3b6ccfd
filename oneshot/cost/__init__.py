"""What an architecture costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneshot.supernets._lazy import lazy

if TYPE_CHECKING:
    from .agreement import Agreement as Agreement
    from .candidates import Counted as Counted
    from .candidates import count_candidates as count_candidates
    from .conditional import ConditionalCost as ConditionalCost
    from .counts import Counts as Counts
    from .counts import count as count
    from .few_shot import FewShot as FewShot
    from .few_shot import TransferredCost as TransferredCost
    from .few_shot import bundled_sources as bundled_sources
    from .few_shot import measured_cost as measured_cost
    from .few_shot import nonnegative_mixture as nonnegative_mixture
    from .few_shot import transferred_cost as transferred_cost
    from .joint import PeakCost as PeakCost
    from .joint import Segment as Segment
    from .landing import Landing as Landing
    from .landing import land as land
    from .measurement import measure as measure
    from .measurement import measure_latencies as measure_latencies
    from .measurement import measure_samples as measure_samples
    from .model import AdditiveCost as AdditiveCost
    from .model import CostModel as CostModel
    from .penalty import CostPenalty as CostPenalty
    from .predictors import LinearPredictor as LinearPredictor
    from .predictors import Predictor as Predictor
    from .predictors import ResolutionPredictor as ResolutionPredictor
    from .predictors import fit_predictor as fit_predictor
    from .record import Record as Record
    from .record import describe_supernet as describe_supernet
    from .samples import read_csv as read_csv
    from .samples import read_record as read_record
    from .samples import write_csv as write_csv
    from .table import LatencyTable as LatencyTable
    from .target import Device as Device
    from .target import Target as Target
    from .verification import Verification as Verification
    from .verification import verify as verify

__getattr__, __dir__, __all__ = lazy(__name__)
