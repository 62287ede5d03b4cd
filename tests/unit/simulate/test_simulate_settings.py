import msgspec
import pytest

from tamis.config import convert
from tamis.errors import ConfigError
from tamis.simulate.world import World, WorldConfig


def test_the_default_world_has_about_a_million_impressions():
    config = WorldConfig()
    assert (config.users, config.items, config.days) == (5_000, 20_000, 14)
    assert 0.95e6 < config.impressions < 1.05e6


def test_old_and_new_items_make_all_items():
    config = WorldConfig.tiny()
    assert config.new_items == 6 * 18
    assert config.old_items + config.new_items == config.items


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("users", 0),
        ("page_size", 0),
        ("categories", 25),
        ("cities", 0),
        ("random_click_rate", 0.0),
        ("pages_per_session", 0.5),
        ("popular_share", 0.9),
        ("new_users_share", 1.5),
        ("new_items_share_per_day", 0.2),  # more than there are items
    ],
)
def test_an_impossible_value_is_refused_by_name(key, value):
    with pytest.raises(ConfigError, match="items" if key == "new_items_share_per_day" else key):
        convert({key: value}, WorldConfig)


@pytest.mark.parametrize(
    "changes",
    [
        {"categories": 1, "topics_per_category": 1, "authors": 1, "cities": 1},
        {"new_items_share_per_day": 0.0, "new_users_share": 0.0},
        {"new_users_share": 1.0, "days": 1},
        {"page_size": 1, "vector_size": 1, "pages_per_session": 1.0},
        {"users": 1, "sessions_per_user_day": 1e-9, "new_users_share": 0.0},
        {"popular_share": 0.0, "newest_share": 0.0, "random_share": 0.0},
        {"seed": 2**40},
    ],
)
def test_a_world_at_the_edge_can_be_made(changes):
    config = msgspec.structs.replace(WorldConfig.tiny(), **changes)
    world = World.generate(config)
    tables = world.tables()
    assert tables.users.height == config.users
    assert tables.requests.height == len(world.log)
    assert world.preference(world.log.user, world.log.items, world.log.time)["click"].shape == world.log.items.shape
