"""MovieLens and its kin: publishers' files of 100k (tabs, bars), 1m and 10m (`::`), latest (CSV), and Parquet sets.

Which layout a folder has is seen from its files. Every rating becomes an event `rate` with the stars (0 = unknown),
and a high one (`positive_rating`) also a `click`, the positive of this data set. Ratings are no pages: there are no
requests and no impressions. Genres become keywords and the first of them the category; the year in a title, or the
release date where there is one, becomes the publish time.
"""

from pathlib import Path
from typing import Any, Final

import polars as pl

from tamis.config import Config
from tamis.data.sources.files import TextFormat, read_files, require
from tamis.data.sources.mapping import Emit, EventsFile, Rule, TableFile, Time, events_of, rows_of
from tamis.data.tables import RawTables
from tamis.errors import DataError

_GENRES: Final = (
    *(
        "unknown",
        "Action",
        "Adventure",
        "Animation",
        "Children's",
        "Comedy",
        "Crime",
        "Documentary",
        "Drama",
        "Fantasy",
    ),
    *("Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)  # in the order of u.item's columns
_NO_GENRE: Final = ("(no genres listed)", "unknown")


class MovieLensConfig(Config, frozen=True):
    """positive_rating: ratings from here on are clicks; on a scale of five stars, doubled for one of ten."""

    positive_rating: float = 4.0


class _Layout(Config, frozen=True):
    """One layout: the files of ratings, movies and users ("" = none), how they are laid out, names that differ."""

    ratings: str
    movies: str
    users: str = ""
    text: tuple[TextFormat, TextFormat, TextFormat] = (TextFormat(), TextFormat(), TextFormat())
    user_id: str = "user_id"
    item_id: str = "item_id"
    movie_id: str = "item_id"


def _text(separator: str, names: str) -> TextFormat:
    return TextFormat(separator=separator, quote="", encoding="either", names=tuple(names.split()))


_LAYOUTS: Final = (
    _Layout(
        ratings="u.data",
        movies="u.item",
        users="u.user",
        text=(
            _text("\t", "user_id item_id rating timestamp"),
            _text("|", " ".join(("item_id title release_date video_date url", *_GENRES))),
            _text("|", "user_id age gender occupation zip"),
        ),
    ),
    _Layout(
        ratings="ratings.dat",
        movies="movies.dat",
        users="users.dat",
        text=(
            _text("::", "user_id item_id rating timestamp"),
            _text("::", "item_id title genres"),
            _text("::", "user_id gender age occupation zip"),
        ),
    ),
    _Layout(ratings="ratings.csv", movies="movies.csv", user_id="userId", item_id="movieId", movie_id="movieId"),
    _Layout(ratings="interactions.parquet", movies="movies.parquet", users="users.parquet"),
    _Layout(ratings="ratings.parquet", movies="items.parquet", users="users.parquet"),
    _Layout(ratings="ratings.parquet", movies="movies.parquet", item_id="imdb_id", movie_id="imdb_id"),
)


def read(path: Path, config: MovieLensConfig) -> RawTables:
    """The tables of a MovieLens folder. Raises DataError when it has no known layout or a file is damaged."""
    layout = _layout(path)
    ratings, bad_ratings = read_files(path, layout.ratings, layout.text[0])
    movies, bad_movies = read_files(path, layout.movies, layout.text[1])
    events, worse = _events(ratings, layout, config, path)
    items, worse_items = _items(movies, layout, path)
    users, bad_users = _users(path, layout)
    return RawTables.of(users, items, None, events, pl.concat([bad_ratings, worse, bad_movies, worse_items, bad_users]))


def _layout(path: Path) -> _Layout:
    if not path.is_dir():
        raise DataError(f"{path}: no such folder")
    for layout in _LAYOUTS:
        if (path / layout.ratings).is_file() and (path / layout.movies).is_file():
            return layout
    known = "; ".join(dict.fromkeys(f"{layout.ratings} and {layout.movies}" for layout in _LAYOUTS))
    raise DataError(f"{path}: no MovieLens files here; wanted {known}")


def _events(
    ratings: pl.DataFrame, layout: _Layout, config: MovieLensConfig, path: Path
) -> tuple[pl.DataFrame, pl.DataFrame]:
    require(ratings, ["rating"], path / layout.ratings)
    largest: Any = ratings["rating"].cast(pl.Float64, strict=False).max()
    threshold = config.positive_rating * (2 if (largest or 0) > 5 else 1)
    positive = Rule(column="rating", at_least=threshold)
    if "is_positive" in ratings.columns:  # the rebuilt set knows the answer for more rows than it knows the rating of
        positive = Rule(column="is_positive", at_least=1)
    file = EventsFile(
        file=layout.ratings,
        columns={"user_id": layout.user_id, "item_id": layout.item_id},
        times={"time": Time(column="timestamp")},
        emit=(Emit(action="rate", value="rating"), Emit(action="click", when=positive)),
    )
    require(ratings, ["timestamp", layout.user_id, layout.item_id], path / layout.ratings)
    if "order_in_user" in ratings.columns:
        ratings = ratings.sort(layout.user_id, "order_in_user")
    return events_of(ratings, file)


def _items(movies: pl.DataFrame, layout: _Layout, path: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    require(movies, [layout.movie_id, "title"], path / layout.movies)
    if set(_GENRES) <= set(movies.columns):  # one column of 0 and 1 for each genre
        flags = [pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in _GENRES]
        movies = movies.with_columns(pl.concat_str(flags, separator="|", ignore_nulls=True).alias("genres"))
    require(movies, ["genres"], path / layout.movies)
    year = pl.col("title").str.extract(r"\((\d{4})\)\s*$").cast(pl.Int32, strict=False)
    published = pl.date(year, 1, 1).cast(pl.Datetime("us"))
    if "release_date" in movies.columns:
        released = pl.col("release_date").str.to_datetime("%d-%b-%Y", strict=False, time_unit="us")
        published = pl.coalesce(released, published)
    movies = movies.with_columns(published.alias("_published"))
    columns: dict[str, str | tuple[str, ...]] = {"item_id": layout.movie_id, "text": "title", "keywords": "genres"}
    times = {"publish_time": Time(column="_published")}
    file = TableFile(file=layout.movies, columns=columns, times=times, lists={"keywords": "|"})
    items, rejected = rows_of(movies, file, "items")
    known = pl.col("keywords").list.filter(~pl.element().is_in(_NO_GENRE)).alias("keywords")
    return items.with_columns(known).with_columns(pl.col("keywords").list.first().alias("category")), rejected


def _users(path: Path, layout: _Layout) -> tuple[pl.DataFrame | None, pl.DataFrame]:
    rows, rejected = None, RawTables.of().rejected
    if layout.users and (path / layout.users).is_file():
        found, rejected = read_files(path, layout.users, layout.text[2])
        require(found, ["user_id"], path / layout.users)
        rows, worse = rows_of(found, TableFile(file=layout.users, columns={"user_id": "user_id"}, rest=True), "users")
        rejected = pl.concat([rejected, worse])
    return rows, rejected
