"""What an architecture costs."""

from __future__ import annotations

from .agreement import Agreement as Agreement
from .candidates import Counted as Counted
from .candidates import count_candidates as count_candidates
from .counts import Counts as Counts
from .counts import count as count
from .joint import PeakCost as PeakCost
from .joint import Segment as Segment
from .model import AdditiveCost as AdditiveCost
from .model import CostModel as CostModel
from .penalty import CostPenalty as CostPenalty
