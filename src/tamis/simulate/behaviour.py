"""How users choose: the true probability of every action, and outcomes drawn from it.

The log-odds of a click on an examined item are a sum (z = standardised):

    intercept + eagerness of the user + TASTE · z(taste) + WHETTED · recent clicks alike + appeal of the item
    + place + hour + newness − TIRED · times shown

with taste(user, item, t) = log Σ over the user's interests of exp(strength(t) + SHARPNESS · cos(interest, item)).
The strengths rise and fall slowly, so what a user clicks today tells more about tomorrow than what she clicked last
week. An item at place p of a page is examined with probability max(0.35, (1 + p)^−0.35), on top of all this.

Draws are made from a hash of (seed, user, time, item), not from a stream: the outcome of showing an item in a request
does not depend on what else is asked in the same call, and two policies that show it at the same moment agree on it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr, ndtri

from tamis.data.dataset import DAY_SECONDS
from tamis.simulate.memory import Recent
from tamis.simulate.population import F32, Items, Population, Users
from tamis.simulate.settings import WorldConfig

F64 = NDArray[np.float64]
Outcomes = Mapping[str, NDArray[Any]]

LONG_VIEW_SECONDS: Final = 18.0
_SHARPNESS: Final = 6.0
_TASTE, _WHETTED, _TIRED = 1.15, 0.9, 0.7
_WHET_HALF_LIFE: Final = 2 * 3600.0
_INTEREST_PERIOD: Final = 12 * DAY_SECONDS
_NEWNESS: Final = 0.3
_PLAY_SPREAD: Final = 0.8  # deviation of the log of the seconds watched


class Reaction(NamedTuple):
    """An action that follows a click: its mean rate among clicks and what drives it."""

    rate: float
    taste: float
    quality: float
    charm: float
    moment: float  # when it comes, as a share of the seconds watched


REACTIONS: Final[Mapping[str, Reaction]] = {
    "like": Reaction(0.10, 0.5, 0.5, 0.1, 0.5),
    "collect": Reaction(0.035, 0.5, 0.6, 0.0, 0.7),
    "share": Reaction(0.018, 0.4, 0.6, 0.0, 0.8),
    "comment": Reaction(0.022, 0.3, 0.1, 0.3, 0.6),
    "follow": Reaction(0.010, 0.6, 0.3, 0.7, 0.9),
}
_HIDE: Final = Reaction(0.006, -0.7, -0.7, -0.2, 0.0)  # of examined items that were not clicked
PREFERENCES: Final = ("click", *REACTIONS, "hide", "long_view", "play")


@dataclass(frozen=True, slots=True)
class Mind:
    """What r users would do with n items each, if they examined them; all [r, n]."""

    click: F64  # probability
    reactions: Mapping[str, F64]  # probability given a click
    hide: F64  # probability given no click
    play_log: F64  # mean of the log of the seconds watched after a click
    duration: F64  # seconds


def examination(positions: NDArray[Any]) -> F64:
    """Probability that an item at a 0-based place of the page is looked at."""
    return np.maximum(0.35, (1.0 + positions) ** -0.35)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """The choice model of one population. `intercepts` are set so that the mean rates are those wanted."""

    seed: int
    users: Users
    items: Items
    peak_hour: F32  # [categories] the hour of the day at which a category is liked most
    taste_mean: float
    taste_deviation: float
    intercepts: Mapping[str, float]

    @classmethod
    def calibrate(cls, config: WorldConfig, population: Population) -> "Behaviour":
        """The behaviour whose mean rates over random users and items are those of the config and of REACTIONS."""
        generator = np.random.default_rng([config.seed, 2])
        users, items = population.users, population.items
        peak = generator.uniform(0, 24, config.categories).astype(np.float32)
        raw = cls(config.seed, users, items, peak, 0.0, 1.0, dict.fromkeys(PREFERENCES, 0.0))
        pairs = 20_000
        who = generator.integers(0, len(users), pairs)
        what = generator.integers(0, len(items), (pairs, 1))
        when = np.full(pairs, config.end_time)
        taste = raw.taste(who, what, when)
        mean, deviation = float(taste.mean()), float(taste.std())
        unset = cls(config.seed, users, items, peak, mean, deviation, raw.intercepts)
        return cls(config.seed, users, items, peak, mean, deviation, unset._solve(config, who, what, when))

    def taste(self, users: NDArray[Any], items: NDArray[Any], times: F64) -> F64:
        """[r, n] how well items [r, n] match the interests of users [r] at times [r]; standardised."""
        phase = self.users.phase[users] + (2 * np.pi * times / _INTEREST_PERIOD)[:, None]
        strength = self.users.strength[users] + 0.7 * np.sin(phase)
        near = self.items.latent[items] @ self.users.interests[users].transpose(0, 2, 1)
        # The largest exponent is about 8, so that the sum of exponentials needs no guard.
        matches = np.exp(_SHARPNESS * near + strength[:, None, :])
        return np.asarray((np.log(matches.sum(axis=2)) - self.taste_mean) / self.taste_deviation)

    def mind(self, users: NDArray[Any], items: NDArray[Any], times: F64, recent: Recent) -> Mind:
        """The true probabilities for items [r, n] (valid numbers) examined by users [r] at times [r]."""
        taste = self.taste(users, items, times)
        whetted = self._whetted(items, times, recent)
        tired = np.minimum(recent.times_shown(items), 5)
        known, item = self.users, self.items
        clicks = self.intercepts["click"] + known.eagerness[users][:, None] + _TASTE * taste + _WHETTED * whetted
        clicks = clicks + item.appeal[items] - _TIRED * tired + self._circumstances(users, items, times)
        wish, quality, charm = taste + 0.5 * whetted - 0.3 * tired, item.quality[items], item.charm[items]
        reactions = {
            name: expit(
                self.intercepts[name] + known.generosity[users][:, None] + kind.taste * wish
                + kind.quality * quality + kind.charm * charm
            )
            for name, kind in REACTIONS.items()
        }  # fmt: skip
        unhappy = self.intercepts["hide"] + _HIDE.taste * wish + _HIDE.quality * quality + _HIDE.charm * charm
        duration = item.duration[items].astype(np.float64)
        # Long items are watched longer, but a smaller part of them.
        play_log = 0.65 * np.log(duration) + self.intercepts["play"] + 0.35 * wish + 0.25 * quality
        return Mind(expit(clicks), reactions, expit(unhappy), play_log, duration)

    def expect(self, users: NDArray[Any], items: NDArray[Any], times: F64, recent: Recent) -> dict[str, F64]:
        """Probability of every action and mean seconds of play, at the top of a page; 0 for what is not out yet."""
        mind = self.mind(users, items, times, recent)
        out = self.items.publish_time[items] <= times[:, None]
        click = np.where(out, mind.click, 0.0)
        log_cap, spread = np.log(mind.duration), _PLAY_SPREAD
        long_view = ndtr((mind.play_log - np.log(np.minimum(mind.duration, LONG_VIEW_SECONDS))) / spread)
        # Mean of a log-normal cut off at the duration.
        below = np.exp(mind.play_log + spread**2 / 2) * ndtr((log_cap - mind.play_log - spread**2) / spread)
        seconds = below + mind.duration * ndtr((mind.play_log - log_cap) / spread)
        return {
            "click": click,
            **{name: click * rate for name, rate in mind.reactions.items()},
            "hide": np.where(out, (1 - mind.click) * mind.hide, 0.0),
            "long_view": click * long_view,
            "play": click * seconds,
        }

    def respond(
        self, users: NDArray[Any], items: NDArray[Any], times: F64, positions: NDArray[Any], recent: Recent
    ) -> Outcomes:
        """What users [r] do with pages of items [r, n] (−1 = no item) that they get at times [r].

        Columns, all [r, n]: one bool for every action but play; play: seconds; time: when the user came to the item.
        """
        shown = items >= 0
        known = np.where(shown, items, 0)
        mind = self.mind(users, known, times, recent)
        luck = _Luck.of(self.seed, users, known, times)
        examined = shown & (luck.draw(0) < examination(positions))
        click = examined & (luck.draw(1) < mind.click)
        outcomes: dict[str, NDArray[Any]] = {"click": click}
        for stream, (name, rate) in enumerate(mind.reactions.items(), 2):
            outcomes[name] = click & (luck.draw(stream) < rate)
        outcomes["hide"] = examined & ~click & (luck.draw(10) < mind.hide)
        seconds = np.minimum(np.exp(mind.play_log + _PLAY_SPREAD * ndtri(luck.draw(11))), mind.duration)
        play = np.where(click, np.maximum(np.round(seconds, 1), 0.1), 0.0)
        outcomes["long_view"] = click & (seconds >= np.minimum(mind.duration, LONG_VIEW_SECONDS))
        outcomes["play"] = play.astype(np.float32)
        glance = 0.4 + 1.6 * luck.draw(12)
        outcomes["time"] = np.round(times[:, None] + np.cumsum(glance + play, axis=1) - play, 3)
        return outcomes

    def _whetted(self, items: NDArray[Any], times: F64, recent: Recent) -> F64:
        """[r, n] from 0 to 1: how like the last clicks an item is, an older click counting less."""
        weight = 0.5 ** ((times[:, None] - recent.clicked_at) / _WHET_HALF_LIFE) * (recent.clicked >= 0)
        near = np.maximum(self.items.latent[items] @ self.items.latent[recent.clicked].transpose(0, 2, 1), 0.0)
        same = self.items.category[items][:, :, None] == self.items.category[recent.clicked][:, None, :]
        return np.asarray(np.tanh(((0.5 * near + 0.5 * same) * weight[:, None, :]).sum(axis=2)))

    def _circumstances(self, users: NDArray[Any], items: NDArray[Any], times: F64) -> F64:
        """[r, n] log-odds from place, hour and age: near items, a category's time of day, fresh items."""
        city = self.items.city[items]
        place = np.where(city == self.users.city[users][:, None], 0.5, np.where(city >= 0, -0.15, 0.0))
        turn = (times % DAY_SECONDS / 3600)[:, None] - self.peak_hour[self.items.category[items]]
        age_days = np.maximum(times[:, None] - self.items.publish_time[items], 0.0) / DAY_SECONDS
        return np.asarray(place + 0.25 * np.cos(turn * (2 * np.pi / 24)) + _NEWNESS * 0.5 ** (age_days / 1.5))

    def _solve(self, config: WorldConfig, users: NDArray[Any], items: NDArray[Any], times: F64) -> dict[str, float]:
        """The intercepts at which the mean rates over the given pairs are those wanted."""
        mind = self.mind(users, items, times, Recent.nothing(len(users)))
        found = {"click": _intercept(mind.click, np.ones_like(mind.click), config.random_click_rate)}
        click = expit(np.log(mind.click) - np.log1p(-mind.click) + found["click"])
        for name, rate in mind.reactions.items():
            found[name] = _intercept(rate, click, REACTIONS[name].rate)
        found["hide"] = _intercept(mind.hide, 1 - click, _HIDE.rate)
        threshold = np.log(np.minimum(mind.duration, LONG_VIEW_SECONDS))
        # A random pair that clicks is a little short of a long view on average; better matches exceed it.
        found["play"] = float(np.average(threshold - mind.play_log, weights=click)) - 0.35
        return found


def _intercept(rates: F64, weights: F64, wanted: float) -> float:
    """What must be added to the log-odds of `rates` for a weighted mean of `wanted`; by bisection."""
    odds = np.log(rates) - np.log1p(-rates)
    low, high = -30.0, 30.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if np.average(expit(odds + middle), weights=weights) < wanted else (low, middle)
    return (low + high) / 2


@dataclass(frozen=True, slots=True)
class _Luck:
    """Uniform numbers that depend only on seed, user, item and time."""

    key: NDArray[np.uint64]  # [r, n]

    @classmethod
    def of(cls, seed: int, users: NDArray[Any], items: NDArray[Any], times: F64) -> "_Luck":
        request = _mix(np.round(times * 1000).astype(np.uint64) ^ _mix(users.astype(np.uint64) + _mix(_u64(seed))))
        return cls(_mix(request[:, None] ^ items.astype(np.uint64)))

    def draw(self, stream: int) -> F64:
        """[r, n] uniform in (0, 1), another set for every stream."""
        return (_mix(self.key + _u64(stream)) >> np.uint64(11)).astype(np.float64) * 2.0**-53 + 2.0**-54


def _u64(number: int) -> NDArray[np.uint64]:
    return np.array([number], np.uint64)


def _mix(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Every number as another one that looks random: the finisher of splitmix64 (Steele and others, 2014)."""
    numbers = (numbers + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(numbers ^ (numbers >> np.uint64(31)))
