"""Who and what lives in a world: users with tastes, authors with styles, items with latent vectors.

Letters of shapes: u users, i items, m interests of a user, d latent width, v content vector width.
A *topic* is a direction in latent space near that of its category. A user has a few interests (a topic, seen with a
personal tilt), an item lies near its topic, tilted by its author's style. Keywords name the topic, the content vector
shows the latent vector through noise: neither is the truth, both tell something about it.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tamis.data.dataset import DAY_SECONDS
from tamis.simulate.settings import WorldConfig
from tamis.simulate.words import CATEGORIES, CITIES, DEVICES, GENDERS, keywords

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]

LATENT: Final = 16
INTERESTS: Final = 4
TOPIC_WORDS: Final = 5
CATEGORY_WORDS: Final = 3
_KEYWORDS_PER_ITEM: Final = 4
_ARCHIVE_DAYS: Final = 60.0  # items of before the log were published within this many days


@dataclass(frozen=True, slots=True)
class Users:
    """All users as columns, row = user number."""

    gender: NDArray[np.int8]  # [u] index into GENDERS
    age: NDArray[np.int16]  # [u] years
    city: NDArray[np.int16]  # [u]
    device: NDArray[np.int8]  # [u] index into DEVICES
    register_time: F64  # [u] seconds since the epoch, ascending with the user number
    topics: I32  # [u, m] the topic of each interest, strongest first
    interests: F32  # [u, m, d] unit vectors
    strength: F32  # [u, m] log weight of each interest, on average over time
    phase: F32  # [u, m] in radians, where the interest stands in its slow rise and fall
    eagerness: F32  # [u] adds to the log-odds of a click
    generosity: F32  # [u] adds to the log-odds of like, collect, share …
    visits_per_day: F64  # [u] mean sessions on a day
    hour: F32  # [u] hours by which the user's day is later than the average

    def __len__(self) -> int:
        return len(self.age)


@dataclass(frozen=True, slots=True)
class Items:
    """All items as columns, row = item number, in the order of their publish time."""

    author: I32  # [i]
    category: NDArray[np.int16]  # [i]
    topic: I32  # [i]
    keywords: I32  # [i, 4] index into the world's words, distinct in a row
    latent: F32  # [i, d] unit vectors
    vector: F32  # [i, v] the content vector, unit length
    city: NDArray[np.int16]  # [i] −1: of no place in particular
    latitude: F32  # [i] NaN without a city
    longitude: F32  # [i] NaN without a city
    duration: F32  # [i] seconds
    publish_time: F64  # [i] seconds since the epoch, ascending
    quality: F32  # [i] the true one, mean 0, deviation 1
    shown_quality: F32  # [i] what the platform measures of it, 0–1
    appeal: F32  # [i] adds to the log-odds of a click for everybody: quality and the author's charm
    charm: F32  # [i] of the author, mean 0, deviation 1

    def __len__(self) -> int:
        return len(self.author)


@dataclass(frozen=True, slots=True)
class Population:
    """Users, items and the words that keywords are made of."""

    users: Users
    items: Items
    words: tuple[str, ...]
    topic_category: NDArray[np.int16]  # [topics]

    @classmethod
    def generate(cls, config: WorldConfig) -> "Population":
        """The population of the config's seed."""
        generator = np.random.default_rng([config.seed, 1])
        topics = config.categories * config.topics_per_category
        topic_category = np.repeat(np.arange(config.categories, dtype=np.int16), config.topics_per_category)
        centres = _unit(generator.normal(size=(config.categories, LATENT)))
        directions = _unit(centres[topic_category] + 0.9 * _unit(generator.normal(size=(topics, LATENT))))
        words = keywords(topics * TOPIC_WORDS + config.categories * CATEGORY_WORDS, generator)
        users = _users(config, directions, generator)
        items = _items(config, directions, topic_category, generator)
        return cls(users, items, tuple(words), topic_category)


def category_names(config: WorldConfig) -> tuple[str, ...]:
    """The names of the world's categories, index = category number."""
    return CATEGORIES[: config.categories]


def _users(config: WorldConfig, directions: F32, generator: np.random.Generator) -> Users:
    count = config.users
    gender = generator.choice(len(GENDERS), count, p=[0.46, 0.46, 0.08])
    age = np.clip(generator.gamma(5.0, 6.0, count) + 8, 13, 80).astype(np.int16)
    register = _register_times(config, generator)
    topics = _interest_topics(config, gender, age, generator)
    interests = _unit(directions[topics] + 0.5 * _unit(generator.normal(size=(count, INTERESTS, LATENT))))
    strength = np.array([0.0, -0.3, -0.5, -0.9]) + generator.normal(0, 0.3, (count, INTERESTS))
    return Users(
        gender=gender.astype(np.int8),
        age=age,
        city=generator.choice(config.cities, count, p=_zipf(config.cities, 0.8)).astype(np.int16),
        device=generator.choice(len(DEVICES), count, p=[0.55, 0.35, 0.10]).astype(np.int8),
        register_time=register,
        topics=topics,
        interests=interests,
        strength=strength.astype(np.float32),
        phase=generator.uniform(0, 2 * np.pi, (count, INTERESTS)).astype(np.float32),
        eagerness=generator.normal(0, 0.4, count).astype(np.float32),
        generosity=generator.normal(0, 0.6, count).astype(np.float32),
        visits_per_day=_visits(config, register, generator),
        hour=generator.normal(0, 1.5, count).astype(np.float32),
    )


def _register_times(config: WorldConfig, generator: np.random.Generator) -> F64:
    new = round(config.users * config.new_users_share)
    old = config.start_time - DAY_SECONDS * generator.uniform(0, 400, config.users - new)
    recent = generator.uniform(config.start_time, config.end_time - DAY_SECONDS / 2, new)
    return np.asarray(np.round(np.sort(np.concatenate([old, recent]))))


def _visits(config: WorldConfig, register: F64, generator: np.random.Generator) -> F64:
    """[u] mean sessions a day: log-normal, scaled so that the whole log has as many as the config says."""
    visits = np.minimum(generator.lognormal(0, 1.0, config.users), 8.0)
    days = (config.end_time - np.maximum(register, config.start_time)) / DAY_SECONDS
    wanted = config.users * config.days * config.sessions_per_user_day
    return np.asarray(visits * (wanted / (visits * days).sum()))


def _interest_topics(
    config: WorldConfig, gender: NDArray[Any], age: NDArray[np.int16], generator: np.random.Generator
) -> I32:
    """[u, m] topics: two in the favourite category, the others in further categories; all distinct while they last.

    Gender and age band tilt the odds of a category, as does its general popularity.
    """
    count, categories = len(gender), config.categories
    odds = 1.0 * np.log(_zipf(categories, 0.5)) + 0.6 * generator.normal(size=(len(GENDERS), categories))[gender]
    odds = odds + 0.6 * generator.normal(size=(9, categories))[age // 10]
    order = np.argsort(-(odds + generator.gumbel(size=(count, categories))), axis=1)
    chosen = order[:, [0, 1 % categories, 0, 2 % categories]]
    per = config.topics_per_category
    inside = generator.integers(0, per, (count, INTERESTS))
    step = generator.integers(1, max(per, 2), count)
    inside[:, 2] = (inside[:, 0] + step) % per  # the second topic of the favourite category is another one
    return np.asarray(chosen * per + inside, np.int32)


def _items(
    config: WorldConfig, directions: F32, topic_category: NDArray[np.int16], generator: np.random.Generator
) -> Items:
    count, per = config.items, config.topics_per_category
    home = generator.choice(config.categories, config.authors, p=_zipf(config.categories, 0.4)) * per
    home_topic = home + generator.integers(0, per, config.authors)
    style = _unit(generator.normal(size=(config.authors, LATENT)))
    charm, skill = generator.normal(size=(2, config.authors)).astype(np.float32)
    author_city = generator.choice(config.cities, config.authors, p=_zipf(config.cities, 0.8))
    author = generator.choice(config.authors, count, p=_zipf(config.authors, 0.6, generator))

    wandering = (home_topic[author] // per) * per + generator.integers(0, per, count)
    topic = np.where(generator.random(count) < 0.5, home_topic[author], wandering)
    off_topic = generator.random(count) < 0.08
    topic[off_topic] = generator.integers(0, len(directions), int(off_topic.sum()))
    latent = _unit(directions[topic] + 0.4 * style[author] + 0.55 * _unit(generator.normal(size=(count, LATENT))))
    quality = (0.5 * skill[author] + np.sqrt(0.75) * generator.normal(size=count)).astype(np.float32)
    city, latitude, longitude = _places(author_city[author], generator)
    return Items(
        author=author.astype(np.int32),
        category=topic_category[topic],
        topic=topic.astype(np.int32),
        keywords=_item_keywords(config, topic, generator),
        latent=latent,
        vector=_content_vectors(latent, config.vector_size, generator),
        city=city,
        latitude=latitude,
        longitude=longitude,
        duration=_durations(topic_category[topic], config.categories, generator),
        publish_time=_publish_times(config, generator),
        quality=quality,
        shown_quality=np.clip(0.5 + 0.15 * (quality + 0.8 * generator.normal(size=count)), 0, 1).astype(np.float32),
        appeal=0.75 * quality + 0.5 * charm[author],
        charm=charm[author],
    )


def _item_keywords(config: WorldConfig, topic: NDArray[Any], generator: np.random.Generator) -> I32:
    """[i, 4] three words of the topic (one in eight is of a sister topic), then one of the category."""
    count, per = len(topic), config.topics_per_category
    slot = np.argsort(generator.random((count, TOPIC_WORDS)), axis=1)[:, : _KEYWORDS_PER_ITEM - 1]
    beside = (topic // per * per)[:, None] + generator.integers(0, per, slot.shape)
    source = np.where(generator.random(slot.shape) < 0.125, beside, topic[:, None])
    general = config.categories * per * TOPIC_WORDS + topic // per * CATEGORY_WORDS
    general = general + generator.integers(0, CATEGORY_WORDS, count)
    return np.column_stack([source * TOPIC_WORDS + slot, general]).astype(np.int32)


def _content_vectors(latent: F32, size: int, generator: np.random.Generator) -> F32:
    """[i, v] the latent vectors turned by a random matrix, with noise that leaves a cosine of about 0.8."""
    turn = generator.normal(size=(LATENT, size)) / np.sqrt(size)
    noise = generator.normal(size=(len(latent), size)) * (0.75 / np.sqrt(size))
    return _unit(latent @ turn.astype(np.float32) + noise)


def _places(home: NDArray[Any], generator: np.random.Generator) -> tuple[NDArray[np.int16], F32, F32]:
    """City, latitude and longitude of items: six in ten are of no place, the rest lie around the author's city."""
    nowhere = generator.random(len(home)) < 0.6
    centre = np.array([place[1:] for place in CITIES])[home]
    spread = generator.normal(0, 0.05, centre.shape)
    places = np.where(nowhere[:, None], np.nan, centre + spread).astype(np.float32)
    return np.where(nowhere, -1, home).astype(np.int16), places[:, 0].copy(), places[:, 1].copy()


def _durations(category: NDArray[np.int16], categories: int, generator: np.random.Generator) -> F32:
    typical = 28.0 * np.exp(generator.normal(0, 0.4, categories))
    seconds = typical[category] * np.exp(generator.normal(0, 0.6, len(category)))
    return np.round(np.clip(seconds, 5, 300), 1).astype(np.float32)


def _publish_times(config: WorldConfig, generator: np.random.Generator) -> F64:
    """[i] ascending; every day of the log publishes the same number of items."""
    old = config.start_time - DAY_SECONDS * generator.uniform(0, _ARCHIVE_DAYS, config.old_items)
    per_day = config.new_items // config.days
    day = np.repeat(np.arange(config.days), per_day)
    new = config.start_time + DAY_SECONDS * (day + generator.uniform(0, 1, len(day)))
    return np.asarray(np.floor(np.sort(np.concatenate([old, new]))))


def _zipf(count: int, exponent: float, generator: np.random.Generator | None = None) -> F64:
    """[count] shares that fall as a power of the rank; in random order if a generator is given."""
    shares = np.arange(1.0, count + 1) ** -exponent
    if generator is not None:
        shares = generator.permutation(shares)
    return np.asarray(shares / shares.sum())


def _unit(vectors: NDArray[Any]) -> F32:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32)
