"""What an architecture costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneshot._lazy import lazy

if TYPE_CHECKING:
    from oneshot.regression.scores import Agreement as Agreement

    from .counting.candidates import Counted as Counted
    from .counting.candidates import count_candidates as count_candidates
    from .counting.elastic import ConditionalCost as ConditionalCost
    from .counting.network import Counts as Counts
    from .counting.network import count as count
    from .counting.peak import PeakCost as PeakCost
    from .counting.peak import Segment as Segment
    from .counting.polynomials import PolynomialCost as PolynomialCost
    from .counting.traced import TracedCost as TracedCost
    from .latency.device import Device as Device
    from .latency.device import LatencyDevice as LatencyDevice
    from .latency.measure import measure as measure
    from .latency.measure import measure_latencies as measure_latencies
    from .latency.measure import measure_samples as measure_samples
    from .latency.samples import read_csv as read_csv
    from .latency.samples import read_record as read_record
    from .latency.samples import write_csv as write_csv
    from .latency.table import LatencyTable as LatencyTable
    from .latency.verify import Verification as Verification
    from .latency.verify import verify as verify
    from .learned.ceiling import NoiseCeiling as NoiseCeiling
    from .learned.ceiling import noise_ceiling as noise_ceiling
    from .learned.few_shot import FewShot as FewShot
    from .learned.fit import fit_predictor as fit_predictor
    from .learned.measured import bundled_sources as bundled_sources
    from .learned.measured import measured_cost as measured_cost
    from .learned.measured import transferred_cost as transferred_cost
    from .learned.predictors import LinearPredictor as LinearPredictor
    from .learned.predictors import Predictor as Predictor
    from .learned.predictors import ResolutionPredictor as ResolutionPredictor
    from .learned.transferred import TransferredCost as TransferredCost
    from .learned.transferred import nonnegative_mixture as nonnegative_mixture
    from .model import AdditiveCost as AdditiveCost
    from .model import CostModel as CostModel
    from .penalty import CostPenalty as CostPenalty
    from .record import Record as Record
    from .record import describe_supernet as describe_supernet
    from .resolve import resolve_cost as resolve_cost
    from .space_profile import BoundProfile as BoundProfile
    from .space_profile import CostProfile as CostProfile
    from .space_profile import SpaceProfile as SpaceProfile
    from .target import TargetAttempt as TargetAttempt
    from .target import meet_target as meet_target

__getattr__, __dir__, __all__ = lazy(__name__)
