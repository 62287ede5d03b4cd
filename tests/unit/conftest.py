"""Fixtures that several folders of unit tests share."""

import pytest
from toy_world import Toy, toy_world


@pytest.fixture(scope="session")
def toy() -> Toy:
    """A tiny clustered world as training inputs; see toy_world."""
    return toy_world()
