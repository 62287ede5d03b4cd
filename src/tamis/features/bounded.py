"""The inputs of a training on a log that is larger than the memory it may take.

The log is gone through in the order of time, in stretches of some hours none of which goes beyond a refresh of the
statistics. Each stretch is made into samples and sides by the code that makes them of a whole log, and these are put on
disk one after the other. What stays in memory grows with users, items and requests, never with events.

It differs from `features.prepare` in this: an impression belongs to a request of at most an hour before it, an answer
to a page of at most `label_window_hours` before it, also when it names the request; words of the context are learnt
from some of the requests, evenly over time; of the validation requests some are taken, evenly over time. What is drawn
into requests (negatives of a log without impressions, rows that nobody was shown) is drawn by the same rule, but anew
for each stretch, since a request's statistics are at hand only then.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tamis.data.dataset import DAY_SECONDS, Dataset, Events
from tamis.data.known import KnownPairs
from tamis.data.negatives import Drawing, Popularity
from tamis.data.on_disk import Appender, Room, as_array
from tamis.data.overview import Overview
from tamis.data.samples import SampleConfig, Samples, thinned
from tamis.data.timelines import Kinds, timelines_on_disk
from tamis.data.unshown import SHOWN, with_unshown
from tamis.errors import ConfigError, DataError
from tamis.features.as_of import Counting, Running, of_log
from tamis.features.encode import Encoder
from tamis.features.fields import numbers
from tamis.features.groups import ITEM, Group, groups_of, live_group
from tamis.features.inputs import Inputs, MoreRows, Sides
from tamis.features.pairs import EventKeys
from tamis.features.pairs_as_of import Contexts, PairCounting
from tamis.features.prepare import Moment, catalog_of, columns_of, rows_of
from tamis.features.shelf import Rows, Shelf
from tamis.features.spec import FeaturesConfig
from tamis.features.statistics import VALUED
from tamis.features.stretches import Stretches, refreshed
from tamis.state.settings import StateConfig
from tamis.types import ACTION_CODE, ACTIONS, Action, Progress, silent

_EVENT: Final = 31  # bytes of one in memory
_STRETCH_ROW: Final = 500  # bytes of an event while its stretch is made into samples
_PAIR: Final = 32  # bytes of a pair of user and item while they are sorted
_NAMES: Final = Events.__slots__


@dataclass(frozen=True, slots=True)
class Bound:
    """What a training under a bound of memory is given besides.

    state: histories reach as far back as its live timelines.   room: where files may lie, what memory may be taken.
    unshown: how many rows parts want in each request that it did not show; see `Inputs.with_unshown`.
    seed: of drawing those.
    """

    state: StateConfig
    room: Room
    unshown: tuple[int, ...] = ()
    seed: int = 0


def prepare_bounded(
    dataset: Dataset,
    moment: Moment,
    configs: tuple[FeaturesConfig, SampleConfig, tuple[str, ...]],
    bound: Bound,
    encoder: Encoder | None = None,
    progress: Progress = silent,
) -> Inputs:
    """See `features.prepare.prepare`. What it makes is of use as long as the folder of `bound.room` is there.

    Raises ConfigError when the memory cannot hold what grows with users, items and requests, DataError without events.
    """
    state, history = bound.state, np.isin(ACTIONS, configs[0].history.actions)
    kinds = Kinds(np.isin(ACTIONS, state.timeline_actions), history, state.timeline_limit)
    overview = Overview.of(dataset, moment.until, kinds.remembered, bound.room.rows(1 / 16, 3 * _EVENT))
    log = _BoundedLog(dataset, moment, configs, bound, overview)
    log.check()
    progress("features", 0, 3)
    inputs, stretches = log.begun(encoder, kinds, progress)
    return log.filled(inputs, stretches, log.pairs(inputs))


@dataclass(frozen=True, slots=True)
class _BoundedLog:
    """The log of a training with what is known of it before samples are made."""

    dataset: Dataset
    moment: Moment
    configs: tuple[FeaturesConfig, SampleConfig, tuple[str, ...]]
    bound: Bound
    overview: Overview

    @property
    def sampled(self) -> bool:
        """True for a log without impressions, whose negatives are drawn."""
        return not self.overview.totals[Action.IMPRESSION]

    @property
    def unshown(self) -> tuple[int, ...]:
        """Of `Bound`; none where all negatives are drawn."""
        return () if self.sampled else self.bound.unshown

    @property
    def requests(self) -> int:
        """About how many samples have."""
        acts = sum(int(self.overview.totals[ACTION_CODE[name]]) for name in self.configs[1].positives)
        return acts if self.sampled else self.dataset.counts()["requests"] + self.overview.loose_pages

    @property
    def rows_each(self) -> float:
        """About how many rows at most become of an event."""
        if self.sampled:
            return 1.0 + self.configs[1].negatives
        shown = int(self.overview.totals[Action.IMPRESSION])
        return 1.0 + sum(1.0 + count * self.requests / shown for count in self.unshown)

    @property
    def piece(self) -> int:
        """Events that are read at once."""
        return self.bound.room.rows(1 / 16, 3 * _EVENT)

    @property
    def counted(self) -> list[int]:
        """Codes of the actions that statistics are made of."""
        return sorted({code for group in self._groups for code in group.actions})

    @property
    def valued(self) -> list[int]:
        """Codes of the events that have a value, where some statistic is made of values."""
        return [VALUED + code for code in self.overview.all_of] if self.configs[0].means else []

    @property
    def windows(self) -> list[float]:
        """Hours of the windows that statistics are counted in, 0 = all so far."""
        return sorted({hours for group in self._groups for hours in group.windows} | {0.0})

    @property
    def _groups(self) -> list[Group]:
        """Those of a user or an item alone."""
        every = groups_of(self.configs[0])
        return [*(every[name] for name in ("user", ITEM) if name in every), live_group(self.configs[0])]

    def check(self) -> None:
        """Raises as `prepare_bounded` says."""
        overview, requests = self.overview, self.requests
        if not overview.all_of:
            raise DataError(
                f"{self.dataset.folder}: no events to learn from before the held-out days begin; "
                "import more, or lower split.test_days"
            )
        entities = len(overview.by_user) + len(overview.by_item)
        bytes_each = 4 * (len(self.counted) + len(overview.all_of)) + 12 * len(self.valued)
        wanted = 2.0 * (entities * (32 + bytes_each * (len(self.windows) + 1)) + requests * 32)
        if wanted > self.bound.room.bytes:
            raise ConfigError(
                f"train.memory_gib is {self.bound.room.bytes / 2**30:.3g}: {entities:,} users and items and "
                f"{requests:,} requests alone want {wanted / 2**30:.3g}"
            )

    def begun(self, encoder: Encoder | None, kinds: Kinds, progress: Progress) -> tuple[Inputs, Stretches]:
        """Inputs without events and samples, and the stretches that those are to be made of."""
        dataset, until, overview = self.dataset, self.moment.until, self.overview
        last = self._counting([*overview.all_of, *self.valued])  # all of them: events of any kind make an id known
        last.advance(until, until)
        totals = last.totals("user")
        counts = {side: last.as_of(side, Events.joined([]), totals) for side in ("user", "item")}
        raw = {"user": columns_of(dataset.users), "item": columns_of(dataset.items)}
        there = np.fmin(numbers(raw["item"]["publish_time"]), overview.first_seen)
        if encoder is None:
            known = {"user": overview.by_user > 0, "item": there < until}
            sides: dict[str, Any] = {side: rows_of(raw[side], mask) for side, mask in known.items()}
            sides["context"] = self._context()
            encoder = Encoder.fit(self.configs[0], sides, counts["user"], counts["item"])
        catalog = catalog_of(encoder, dataset, raw["item"], counts["item"], until)
        users = encoder.users(np.arange(len(overview.by_user)), raw["user"])
        progress("features", 1, 3)
        histories = timelines_on_disk(dataset, until, overview, kinds, self.bound.room)
        published = np.asarray(catalog.columns["publish_time"][0])
        drawing = self._drawing(published) if self.sampled else None
        stretches = Stretches(
            dataset, self.moment, overview, self.configs[1], histories, published, self.piece, drawing
        )
        inputs = Inputs(
            encoder=encoder,
            catalog=catalog,
            users=users,
            events=Events.joined([]),
            until=until,
            train=stretches.none(),
            valid=stretches.none(),
            user_statistics=counts["user"],
            item_statistics=counts["item"],
            interest_actions=self.configs[2],
            progress=progress,
            user_keys=np.asarray(dataset.user_ids.keys),
            reach=histories[1],
            first_seen=overview.first_seen,
        )
        return inputs, stretches

    def filled(self, inputs: Inputs, stretches: Stretches, pairs: PairCounting) -> Inputs:
        """The inputs with events and samples, made stretch by stretch."""
        room, valid_since = self.bound.room, self.moment.valid_since
        row = 6 + 4 * (len(self.overview.all_of) + len(inputs.layout.item_dynamic)) + 24  # bytes, with its request's
        late = int(self.overview.since(valid_since) * self.rows_each)
        every = max(1, -(-late // room.rows(1 / 8, 3 * row)))  # of how many validation requests one is taken
        train, valid = Shelf(room.folder / "train"), Shelf(room.folder / "valid")
        files = {name: Appender(room.folder / f"events.{name}") for name in _NAMES}
        for end, events, rows in self._made(inputs, (stretches, pairs), every):
            for name, file in files.items():
                file.append(getattr(events, name))
            if len(rows[0][0]):
                shelf = train if end <= valid_since else valid
                shelf.append(rows)
        window = room.rows(1 / 4, row)
        ends = [*range(0, files["user"].rows, self.piece), files["user"].rows]
        events = Events(**{name: as_array(file.done(ends)) for name, file in files.items()})
        learn = {count: train.done(inputs, window, count) for count in (0, *self.unshown)}
        judge = {count: valid.done(inputs, window, count).in_memory() for count in (0, *self.unshown)}
        return replace(
            inputs,
            events=events,
            train=learn[0].samples,
            valid=judge[0].samples,
            pieces=learn[0].pieces,
            pairs=pairs.at(self.moment.until),
            more={n: MoreRows(learn[n].samples, judge[n].samples, learn[n].pieces) for n in self.unshown},
            _sides={id(each.samples): (each.samples, each.sides) for each in (*learn.values(), *judge.values())},
        )

    def _made(
        self, inputs: Inputs, going: tuple[Stretches, PairCounting], every: int
    ) -> Iterator[tuple[float, Events, Rows]]:
        """(end, events of interest, samples with their sides) of each stretch; of `every` validation requests one."""
        interest, (config, sampling, _) = np.isin(ACTIONS, self.configs[2]), self.configs
        stretches, pairs = going
        edges = stretches.edges(config, self.bound.room.rows(1 / 4, _STRETCH_ROW * self.rows_each))
        counting, totals, seen = self._counting(self.counted), inputs.user_statistics.totals(), 0
        for number, (begin, end) in enumerate(pairwise(edges)):
            as_of = float(refreshed(config, (begin + end) / 2))
            counting.advance(as_of, begin)
            events = stretches.events(begin, end)
            samples = stretches.samples(events, begin if number else -np.inf, end, number)
            if begin >= self.moment.valid_since:
                chosen = np.flatnonzero((seen + np.arange(len(samples))) % every == 0)
                seen, samples = seen + len(samples), samples.take(chosen)
            else:
                samples = thinned(samples, sampling.keep_negatives)
            inside = events.take((events.time >= begin) & (events.time < end))
            users, items = (counting.as_of(side, inside, totals) for side in ("user", "item"))
            of_pairs = pairs.at(as_of)
            at_hand = replace(inputs, user_statistics=users, item_statistics=items, pairs=of_pairs, _sides={})
            yield end, inside.take(interest[inside.action]), self._rows(at_hand, samples, number)
            inputs.progress("samples", number + 1, len(edges) - 1)

    def _rows(self, inputs: Inputs, samples: Samples, number: int) -> Rows:
        """The samples of stretch `number` with their sides, and with rows drawn into them as of then."""
        made: dict[int, tuple[Samples, Sides]] = {}
        for count in self.unshown:
            more = with_unshown(samples, inputs.since, count, (self.bound.seed, number))
            made[count] = more, inputs.sides(more)
        if not made:
            return {0: (samples, inputs.sides(samples))}
        more, sides = made[self.unshown[0]]
        return {0: (samples, Sides(sides.user, sides.dynamic[more.labels[SHOWN] > 0])), **made}

    def pairs(self, inputs: Inputs) -> PairCounting:
        """The counting of statistics of pairs."""
        contexts = Contexts(self.dataset, inputs.encoder)
        keys = EventKeys(inputs.encoder, inputs.users, inputs.catalog, contexts.of)
        room = self.bound.room.bytes / 4, self.piece
        return PairCounting.of(self.dataset, keys, (self.overview.first, self.moment.until), room)

    def _drawing(self, published: NDArray[np.float64]) -> Drawing:
        """What negatives are drawn by, of the whole log."""
        overview, power = self.overview, self.configs[1].popularity_power
        since = np.fmin(published, overview.first_seen)
        popularity = Popularity.of_counts(overview.by_item, since, power)

        def pairs() -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
            for events in self.dataset.pieces(("user", "item"), None, self.moment.until, rows=self.piece):
                yield events["user"], events["item"]

        file = self.bound.room.folder / "met", self.bound.room.rows(1 / 8, _PAIR)
        met = KnownPairs.on_disk(pairs, len(overview.by_user), len(overview.by_item), file)
        return Drawing(popularity, met)

    def _counting(self, actions: Sequence[int]) -> Counting:
        who = of_log(self.dataset)
        return Counting(lambda: Running(self.dataset, who, actions, self.piece), self.windows, self.overview.first)

    def _context(self) -> dict[str, list[Any]]:
        """Raw context of some requests, evenly over time."""
        until, count = self.moment.until, max(1, self.dataset.counts()["requests"])
        width = 1 + len(self.dataset.manifest.columns.get("requests", {}))
        every = -(-count // self.bound.room.rows(1 / 8, 100 * width))
        frames = [pl.DataFrame(schema={"scene": pl.String})]
        for day in sorted({part.first // DAY_SECONDS for part in self.dataset.manifest.parts["requests"]}):
            begin, end = day * DAY_SECONDS, (day + 1) * DAY_SECONDS
            if begin < until:
                some = self.dataset.requests(begin, min(end, until))
                frames.append(some.context.with_columns(scene=some.scene.cast(pl.String)).gather_every(every))
        return columns_of(pl.concat(frames, how="diagonal_relaxed"))
