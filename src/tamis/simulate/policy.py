"""The imperfect recommender that made the log: popular, newest, random and roughly personalised items on each page.

Every place of a page belongs to one of the four sources, drawn by the config's shares. The policy draws a few
candidates from the source, keeps the one with the best noisy score, and orders the page by that score. What is shown is
therefore biased as in a real log: popular items get more clicks because they are shown more, and good matches stand
higher up.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tamis.data.dataset import DAY_SECONDS
from tamis.simulate.behaviour import F64
from tamis.simulate.memory import Recent
from tamis.simulate.population import F32, I32, INTERESTS, LATENT, Population
from tamis.simulate.settings import WorldConfig

_TRIES: Final = 3  # candidates for one place
_NEWEST_DAYS: Final = 2.0
_REPEAT_COST: Final = 6.0  # how much the policy shuns what a user has seen
_PERSONAL, _POPULAR, _NEWEST = 0, 1, 2  # sources; 3 is random


@dataclass(frozen=True, slots=True)
class Popularity:
    """How popular items were until this morning."""

    clicks: F64  # [i] clicks, those of past days counting less
    score: F64  # [i] standardised
    until: F64  # [i] cumulative share of the draws

    @classmethod
    def of(cls, clicks: F64) -> "Popularity":
        """The popularity that follows from decayed click counts."""
        score = np.log1p(clicks)
        return cls(clicks, (score - score.mean()) / max(float(score.std()), 1e-9), np.cumsum(clicks + 0.02))

    def tomorrow(self, clicks: NDArray[Any]) -> "Popularity":
        """The popularity after a day with these clicks [i]."""
        return Popularity.of(0.8 * self.clicks + clicks)


@dataclass(frozen=True, slots=True)
class LoggingPolicy:
    """What the platform believes about users, and how it fills pages from it."""

    config: WorldConfig
    publish_time: F64  # [i] ascending
    latent: F32  # [i, d]
    interests: F32  # [u, m, d] a distorted picture of the users' interests
    topics: I32  # [u, m] the topics it takes their interests for
    by_topic: NDArray[np.int64]  # [i] topic · i + item number, ascending
    topic_starts: NDArray[np.int64]  # [topics]

    @classmethod
    def of(cls, config: WorldConfig, population: Population) -> "LoggingPolicy":
        """The policy that the config's seed gives for a population."""
        generator = np.random.default_rng([config.seed, 3])
        users, items = population.users, population.items
        blurred = users.interests + 0.7 / np.sqrt(LATENT) * generator.normal(size=users.interests.shape)
        wrong = generator.random(users.topics.shape) < 0.2
        guesses = generator.integers(0, len(population.topic_category), users.topics.shape)
        by_topic = np.sort(items.topic.astype(np.int64) * len(items) + np.arange(len(items)))
        starts = np.searchsorted(by_topic, np.arange(len(population.topic_category)) * len(items))
        return cls(
            config,
            items.publish_time,
            items.latent,
            (blurred / np.linalg.norm(blurred, axis=2, keepdims=True)).astype(np.float32),
            np.where(wrong, guesses, users.topics).astype(np.int32),
            by_topic,
            starts,
        )

    def first_popularity(self, quality: F32) -> Popularity:
        """What is popular before the first day: better items, with a lot of noise and a long tail."""
        generator = np.random.default_rng([self.config.seed, 4])
        published = self.publish_time < self.config.start_time
        clicks = np.exp(0.5 * quality + generator.normal(0, 0.8, len(quality)))
        return Popularity.of(np.where(published, clicks, 0.0))

    def pick(
        self, users: NDArray[Any], times: F64, recent: Recent, popularity: Popularity, generator: np.random.Generator
    ) -> NDArray[np.int64]:
        """[r, page] distinct items that are out, for users [r] at times [r], in the order shown."""
        out = np.searchsorted(self.publish_time, times, side="right")
        pool = self._pool(users, times, out, popularity, generator)
        flat = pool.reshape(len(users), self.config.page_size * _TRIES)
        near = (self.latent[flat] @ self.interests[users].transpose(0, 2, 1)).max(axis=2)
        seen = recent.times_shown(flat) > 0
        score = 2.5 * near + 0.5 * popularity.score[flat] - _REPEAT_COST * seen + generator.gumbel(0, 0.7, flat.shape)
        score = score.reshape(pool.shape)
        best = score.argmax(axis=2)[:, :, None]
        items = _distinct(np.take_along_axis(pool, best, axis=2)[:, :, 0], out, generator)
        value = np.take_along_axis(score, best, axis=2)[:, :, 0] + generator.normal(0, 0.5, items.shape)
        return np.asarray(np.take_along_axis(items, np.argsort(-value, axis=1), axis=1))

    def _pool(
        self, users: NDArray[Any], times: F64, out: NDArray[Any], popularity: Popularity, generator: np.random.Generator
    ) -> NDArray[np.int64]:
        """[r, page, tries] candidates; every place has one source."""
        config = self.config
        shares = np.cumsum([config.personal_share, config.popular_share, config.newest_share])
        source = np.searchsorted(shares, generator.random((len(users), config.page_size)), side="right")
        luck = generator.random((2, *source.shape, _TRIES))
        row = np.broadcast_to(np.arange(len(users))[:, None, None], luck.shape[1:])
        pool = np.floor(luck[0] * out[:, None, None]).astype(np.int64)

        popular = source == _POPULAR
        drawn = np.searchsorted(popularity.until, luck[0][popular] * popularity.until[-1], side="right")
        pool[popular] = np.where(drawn < out[row[popular]], drawn, pool[popular])

        newest = source == _NEWEST
        since = np.searchsorted(self.publish_time, times - _NEWEST_DAYS * DAY_SECONDS)[row[newest]]
        fresh = out[row[newest]] - since
        pool[newest] = np.where(fresh > 0, since + np.floor(luck[0][newest] * fresh), pool[newest])

        personal = source == _PERSONAL
        which = np.minimum(np.floor(luck[1][personal] ** 1.3 * INTERESTS).astype(np.int64), INTERESTS - 1)
        topic = self.topics[users[row[personal]], which].astype(np.int64)
        start = self.topic_starts[topic]
        count = np.searchsorted(self.by_topic, topic * len(self.latent) + out[row[personal]]) - start
        # The power draws the newer items of a topic a little more often.
        place = start + np.floor(luck[0][personal] ** 0.8 * count).astype(np.int64)
        drawn = self.by_topic[np.minimum(place, len(self.by_topic) - 1)] % len(self.latent)
        pool[personal] = np.where(count > 0, drawn, pool[personal])
        return np.asarray(pool)


def _distinct(items: NDArray[np.int64], out: NDArray[Any], generator: np.random.Generator) -> NDArray[np.int64]:
    """The pages with every repeated item replaced by a random one of the first `out` [r] items."""
    while True:
        order = np.argsort(items, axis=1, kind="stable")
        ranked = np.take_along_axis(items, order, axis=1)
        repeated = np.zeros(items.shape, np.bool_)
        np.put_along_axis(repeated, order[:, 1:], ranked[:, 1:] == ranked[:, :-1], axis=1)
        if not repeated.any():
            return items
        limit = np.broadcast_to(out[:, None], items.shape)[repeated]
        items = items.copy()
        items[repeated] = np.floor(generator.random(len(limit)) * limit).astype(np.int64)
