"""The size and the seed of a synthetic world."""

from tamis.config import Config
from tamis.data.dataset import DAY_SECONDS
from tamis.simulate.words import CATEGORIES, CITIES


class WorldConfig(Config, frozen=True):
    """How large a world is and how its log was made. Same values, same bytes.

    The number of impressions is about users × days × sessions_per_user_day × pages_per_session × page_size.
    """

    seed: int = 1  # the only randomness
    users: int = 5_000
    items: int = 20_000  # all items, those published during the log included
    authors: int = 1_500
    categories: int = 24  # at most as many as there are names for
    topics_per_category: int = 8  # the finer taste below a category; seen only through keywords and vectors
    cities: int = 12
    vector_size: int = 16  # width of the content vector, a noisy view of an item's latent vector
    days: int = 14
    start_time: float = 1_767_225_600.0  # first second of the log: 2026-01-01 UTC
    sessions_per_user_day: float = 0.6  # mean over users; a few users make most of them
    pages_per_session: float = 2.4
    page_size: int = 10
    new_items_share_per_day: float = 0.015  # share of `items` that is published on each day of the log
    new_users_share: float = 0.15  # share of `users` that registers during the log
    random_click_rate: float = 0.04  # mean true click probability of a random user and item at the top of a page
    popular_share: float = 0.26  # shares of a page by what the logging policy drew it for …
    newest_share: float = 0.12
    random_share: float = 0.12  # … the rest is personalised with noise

    def __post_init__(self) -> None:
        """Refuse worlds that cannot be made, naming the value."""
        for name in ("users", "items", "authors", "topics_per_category", "vector_size", "days", "page_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name, most in (("categories", len(CATEGORIES)), ("cities", len(CITIES))):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be from 1 to {most}, not {getattr(self, name)}")
        if not 0 < self.random_click_rate < 0.5:
            raise ValueError(f"random_click_rate must be between 0 and 0.5, not {self.random_click_rate}")
        if self.sessions_per_user_day <= 0 or self.pages_per_session < 1:
            raise ValueError("sessions_per_user_day must be above 0 and pages_per_session at least 1")
        if min(self.popular_share, self.newest_share, self.random_share) < 0 or self.personal_share < 0:
            raise ValueError("popular_share, newest_share and random_share must be at least 0 and at most 1 together")
        if not 0 <= self.new_users_share <= 1 or self.new_items_share_per_day < 0:
            raise ValueError("new_users_share and new_items_share_per_day must be shares")
        if self.old_items < 4 * self.page_size:
            raise ValueError(
                f"items: only {self.old_items} would be published before the first day, "
                f"at least {4 * self.page_size} are needed to fill pages"
            )

    @property
    def personal_share(self) -> float:
        """Share of a page that the logging policy personalises."""
        return 1 - self.popular_share - self.newest_share - self.random_share

    @property
    def impressions(self) -> int:
        """How many impressions the log will have, more or less."""
        sessions = self.users * self.days * self.sessions_per_user_day
        return round(sessions * self.pages_per_session) * self.page_size

    @property
    def new_items(self) -> int:
        """Items published during the log."""
        return self.days * round(self.items * self.new_items_share_per_day)

    @property
    def old_items(self) -> int:
        """Items published before the log begins."""
        return self.items - self.new_items

    @property
    def end_time(self) -> float:
        """First second after the log."""
        return self.start_time + self.days * DAY_SECONDS

    @classmethod
    def tiny(cls, seed: int = 1) -> "WorldConfig":
        """A world for tests: 200 users, 600 items, 6 days, about 20,000 impressions."""
        return cls(
            seed=seed,
            users=200,
            items=600,
            authors=60,
            categories=8,
            topics_per_category=4,
            cities=5,
            days=6,
            sessions_per_user_day=0.75,
            new_items_share_per_day=0.03,
            random_click_rate=0.06,
        )
