"""The names a world is made of: categories, cities, devices, and invented keywords."""

from typing import Final

import numpy as np

CATEGORIES: Final[tuple[str, ...]] = (
    "music", "comedy", "cooking", "fashion", "gaming", "sport", "travel", "beauty",
    "animals", "film", "dance", "fitness", "home", "parenting", "technology", "cars",
    "photography", "art", "books", "science", "gardening", "crafts", "history", "nature",
)  # fmt: skip

CITIES: Final[tuple[tuple[str, float, float], ...]] = (
    ("paris", 48.857, 2.352),
    ("lyon", 45.764, 4.836),
    ("marseille", 43.296, 5.370),
    ("toulouse", 43.605, 1.444),
    ("nice", 43.703, 7.266),
    ("nantes", 47.218, -1.554),
    ("strasbourg", 48.573, 7.752),
    ("montpellier", 43.611, 3.877),
    ("bordeaux", 44.838, -0.579),
    ("lille", 50.629, 3.057),
    ("rennes", 48.117, -1.678),
    ("grenoble", 45.188, 5.725),
)
"""Name, latitude, longitude; the first are the largest."""

DEVICES: Final[tuple[str, ...]] = ("android", "ios", "web")
GENDERS: Final[tuple[str, ...]] = ("female", "male", "unknown")

_OPENINGS: Final = (
    "b", "br", "c", "ch", "d", "f", "fl", "g", "gr", "h", "j", "k", "l",
    "m", "n", "p", "pl", "qu", "r", "s", "st", "t", "tr", "v", "z",
)  # fmt: skip
_VOWELS: Final = ("a", "ai", "e", "eau", "i", "o", "ou", "u")
_ENDINGS: Final = ("", "", "c", "l", "n", "r", "s", "t", "x")


def keywords(count: int, generator: np.random.Generator) -> list[str]:
    """`count` distinct invented words that can be pronounced."""
    words: dict[str, None] = {}
    while len(words) < count:
        syllables = int(generator.integers(2, 4))
        word = "".join(
            _OPENINGS[generator.integers(len(_OPENINGS))] + _VOWELS[generator.integers(len(_VOWELS))]
            for _ in range(syllables)
        )
        words[word + _ENDINGS[generator.integers(len(_ENDINGS))]] = None
    return list(words)
