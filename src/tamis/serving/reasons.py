"""Why an item is on the page, in a few plain words."""

from collections.abc import Mapping
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


def reason(kind: str) -> str:
    """A short sentence for the kind of channel that found an item."""
    return REASONS.get(kind, OTHERWISE)
