"""Why an item is on the page, in a few plain words."""

from collections.abc import Iterable, Mapping
from typing import Final

REASONS: Final[Mapping[str, str]] = {
    "popular": "popular now",
    "newest": "just published",
    "itemcf": "similar to what you liked",
    "two_tower": "matches your interests",
    "youtube_dnn": "matches your interests",
    "sequential": "goes on from what you did last",
    "keyed": "new where you like to look",
    "geo": "near you",
    "similar_content": "like what you liked",
    "similar_items": "like what you liked",
    "friends": "your friends liked it",
    "cached": "you have not seen it yet",
}
OTHERWISE: Final = "picked for you"
FIRST: Final = "a first pick while we get to know you"
_FOR_ANYBODY: Final = ("popular", "newest", "keyed", "geo", "friends", "cached")  # true without a history


def reason(kind: str) -> str:
    """A short sentence for the kind of channel that found an item."""
    return REASONS.get(kind, OTHERWISE)


def first_reason(kinds: Iterable[str]) -> str:
    """The same for a user of whom nothing is known: of the first channel whose sentence does not speak of his past."""
    return next((REASONS[kind] for kind in kinds if kind in _FOR_ANYBODY), FIRST)
