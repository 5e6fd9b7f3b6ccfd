"""What an architecture costs."""

from __future__ import annotations

from .agreement import Agreement as Agreement
from .counts import Counts as Counts
from .counts import count as count
from .measurement import measure as measure
from .model import AdditiveCost as AdditiveCost
from .model import CostModel as CostModel
from .model import count_candidates as count_candidates
from .penalty import CostPenalty as CostPenalty
from .table import LatencyTable as LatencyTable
from .target import Device as Device
from .target import Target as Target
from .verification import Verification as Verification
from .verification import verify as verify
