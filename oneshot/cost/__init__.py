"""What an architecture costs."""

from __future__ import annotations

from .agreement import Agreement as Agreement
from .counts import Counts as Counts
from .counts import count as count
from .model import AdditiveCost as AdditiveCost
from .model import CostModel as CostModel
from .model import count_candidates as count_candidates
from .penalty import CostPenalty as CostPenalty
