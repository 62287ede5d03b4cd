"""CSV and Parquet files as frames, with errors that name the file.

Text files are read with every column as text, so that a bad value costs its row and not the file; lines with the wrong
number of fields are given back as rejected rows.
"""

import csv
import gzip
import io
from pathlib import Path
from typing import Any, Final, Literal

import polars as pl

from tamis.config import Config
from tamis.data.tables import nothing_rejected, reject
from tamis.errors import DataError

_STAND_IN: Final = "\x1f"  # one byte that takes the place of a separator of several


class TextFormat(Config, frozen=True):
    """How a text file is laid out; Parquet files ignore it.

    separator: between fields, may be several characters.   quote: "" = fields are never quoted.
    encoding: "either" = UTF-8 if the whole file is, else Latin-1.   names: the columns of a file without a header line.
    """

    separator: str = ","
    quote: str = '"'
    encoding: Literal["utf-8", "latin-1", "either"] = "utf-8"
    names: tuple[str, ...] = ()


def find(folder: Path, pattern: str) -> list[Path]:
    """The files of a folder that match a name or a glob pattern, by name. Raises DataError when there is none."""
    if not folder.exists():
        raise DataError(f"{folder}: no such file or folder")
    try:
        found = sorted(path for path in folder.glob(pattern) if path.is_file())
    except (ValueError, NotImplementedError):
        raise DataError(f"file {pattern!r}: wanted a name or a pattern below {folder}") from None
    if found:
        return found
    raise DataError(f"{folder / pattern}: no such file")


def read_files(folder: Path, pattern: str, text: TextFormat) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows of all files that match, with `_source` (file name) and `_row` (1 = first data row); rejected rows."""
    files = find(folder, pattern)
    frames, rejected = [], [nothing_rejected()]
    for file in files:
        frame, bad = read_file(file, text)
        frames.append(frame.with_columns(pl.lit(file.name, pl.Categorical()).alias("_source")))
        rejected.append(bad)
    return pl.concat(frames, how="diagonal_relaxed"), pl.concat(rejected)


def read_file(file: Path, text: TextFormat) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows of one file with `_row`, and the rows that have the wrong number of fields as rejected rows.

    Raises DataError when the file is missing, empty, not of its format or not in its encoding.
    """
    try:
        if file.suffix == ".parquet":
            frame, rejected = pl.read_parquet(file, hive_partitioning=False), nothing_rejected()
            return frame.with_columns(pl.int_range(1, pl.len() + 1, dtype=pl.UInt32).alias("_row")), rejected
        return _read_text(file, text)
    except FileNotFoundError:
        raise DataError(f"{file}: no such file") from None
    except pl.exceptions.NoDataError:
        raise DataError(f"{file}: empty file") from None
    except (OSError, EOFError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{file}: cannot be read: {str(error).splitlines()[0]}") from None


def _read_text(file: Path, text: TextFormat) -> tuple[pl.DataFrame, pl.DataFrame]:
    content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    content = _utf8(content, text.encoding, file)
    separator = text.separator
    if len(separator) > 1:
        content, separator = content.replace(separator.encode(), _STAND_IN.encode()), _STAND_IN
    options: dict[str, Any] = {"separator": separator, "quote_char": text.quote or None}
    if text.names:
        options |= {"has_header": False, "schema": dict.fromkeys(text.names, pl.String)}
    else:
        options |= {"infer_schema": False}
    try:
        frame = pl.read_csv(content, **options)
    except (pl.exceptions.ComputeError, pl.exceptions.ShapeError):
        return _read_ragged(content.decode(), text, separator, file)
    return frame.with_columns(pl.int_range(1, pl.len() + 1, dtype=pl.UInt32).alias("_row")), nothing_rejected()


def _utf8(content: bytes, encoding: str, file: Path) -> bytes:
    if encoding == "latin-1":
        return content.decode("latin-1").encode()
    try:
        content.decode()
    except UnicodeDecodeError as error:
        if encoding == "either":
            return content.decode("latin-1").encode()
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f'{file}: line {line} is not UTF-8; say encoding = "latin-1" if it is that') from None
    return content


def _read_ragged(content: str, text: TextFormat, separator: str, file: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The slow way, for files with lines of more fields than there are columns."""
    quotes: dict[str, Any] = {"quotechar": text.quote} if text.quote else {"quoting": csv.QUOTE_NONE}
    lines = csv.reader(io.StringIO(content), delimiter=separator, **quotes)
    rows = [line for line in lines if line]
    names = list(text.names) or rows.pop(0)
    good = [(number, *row) for number, row in enumerate(rows, start=1) if len(row) == len(names)]
    bad = [(number, separator.join(row)) for number, row in enumerate(rows, start=1) if len(row) != len(names)]
    frame = pl.DataFrame(good, schema={"_row": pl.UInt32, **dict.fromkeys(names, pl.String)}, orient="row")
    frame = frame.with_columns(pl.when(pl.col(name) != "").then(pl.col(name)).alias(name) for name in names)
    lost = pl.DataFrame(bad, schema={"_row": pl.UInt32, "line": pl.String}, orient="row")
    return frame, reject(lost, f"line does not have {len(names)} fields", file.name)


def require(frame: pl.DataFrame, columns: list[str], where: Path) -> None:
    """Raises DataError naming the file and the first of the columns that it does not have."""
    for column in columns:
        if column not in frame.columns:
            there = [name for name in frame.columns if name not in ("_source", "_row")]
            raise DataError(f"{where}: column {column!r} is missing; it has {there}")


def with_numbers(frame: pl.DataFrame, columns: list[str]) -> pl.DataFrame:
    """The frame with those of the given text columns turned into numbers that lose nothing by it ("007" stays text)."""
    changed: list[pl.Series | pl.Expr] = []
    for name in columns:
        if frame.schema[name] != pl.String():
            continue
        column = frame[name]
        whole, real = column.cast(pl.Int64, strict=False), column.cast(pl.Float64, strict=False)
        if column.null_count() == len(column):
            changed.append(pl.lit(None, pl.Null).alias(name))
        elif whole.null_count() == column.null_count() and (whole.cast(pl.String) == column).all():
            changed.append(whole)
        elif real.null_count() == column.null_count() and not column.str.contains(r"^[+-]?0\d").any():
            changed.append(real)
    return frame.with_columns(changed)
