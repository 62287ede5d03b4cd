import pytest

from tamis.simulate.world import World, WorldConfig


@pytest.fixture(scope="session")
def world() -> World:
    return World.generate(WorldConfig.tiny())
