"""Contract tests for your own spaces and methods: subclass one, give the fixture, run pytest.

Example:
    .. code-block:: python

        class TestMySpace(SpaceContract):
            @pytest.fixture
            def supernet(self):
                return MySupernet(channels=4, image_size=8)
"""

import pytest

# Before the modules are imported, so that a failing contract shows the values and not a bare AssertionError.
pytest.register_assert_rewrite(*(f"oneshot.testing.{name}" for name in ("spaces", "elastic", "methods", "strategies")))

from .elastic import ElasticContract as ElasticContract  # noqa: E402
from .methods import MethodContract as MethodContract  # noqa: E402
from .methods import PlantedSupernet as PlantedSupernet  # noqa: E402
from .methods import SharingContract as SharingContract  # noqa: E402
from .methods import find_planted_winner as find_planted_winner  # noqa: E402
from .methods import fit as fit  # noqa: E402
from .methods import random_streams as random_streams  # noqa: E402
from .spaces import SearchSpaceContract as SearchSpaceContract  # noqa: E402
from .spaces import SpaceContract as SpaceContract  # noqa: E402
from .spaces import SupernetContract as SupernetContract  # noqa: E402
from .strategies import StrategyContract as StrategyContract  # noqa: E402
