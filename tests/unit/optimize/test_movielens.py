"""The MovieLens reader: two layouts, one result, and histories that do not give the outcome away."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from optimize.data import movielens
from optimize.data.interactions import DataError
from serving.contract.fields import MISSING_STRING

USERS = 12
MOVIES = (("Amélie", "2001", ("Comedy", "Romance")), ("Brazil", "1985", ("Sci-Fi",)), ("unknown", "", ("unknown",)), ("M", "1931", ("Crime", "Film-Noir", "Thriller")))  # fmt: skip
CATALOGUE = [(str(i + 1), title if i < 4 else f"{title} {i}", year, genres) for i in range(40) for title, year, genres in [MOVIES[i % 4]]]
PEOPLE = [(str(u + 1), str(20 + u), "MF"[u % 2], "writer", f"9{u:04d}") for u in range(USERS)]


def _ratings() -> list[tuple[str, str, int, int]]:
    rng = np.random.default_rng(0)
    rows = []
    for user in range(USERS):
        for movie in rng.permutation(len(CATALOGUE))[:25].tolist():
            rows.append((str(user + 1), str(movie + 1), int(rng.integers(1, 6)), int(880_000_000 + rng.integers(0, 10**7))))
    return [rows[i] for i in rng.permutation(len(rows)).tolist()]


RATINGS = _ratings()


def _grouplens(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    items = []
    for movie, title, year, genres in CATALOGUE:
        flags = "|".join("1" if genre in genres else "0" for genre in movielens.GENRES)
        items.append(
            f"{movie}|{title} ({year})|01-Jan-{year}||http://example.org/{movie}|{flags}" if year else f"{movie}|{title}||||{flags}"
        )
    (folder / "u.data").write_text("".join("\t".join(map(str, row)) + "\n" for row in RATINGS))
    (folder / "u.user").write_text("".join("|".join(person) + "\n" for person in PEOPLE))
    (folder / "u.item").write_bytes("".join(f"{line}\n" for line in items).encode("latin-1"))
    return folder


def _recbole_texts() -> dict[str, str]:
    tables = {
        "inter": ("user_id:token\titem_id:token\trating:float\ttimestamp:float", [tuple(map(str, row)) for row in RATINGS]),
        "user": ("user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token", PEOPLE),
        "item": (
            "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq",
            [(m, t, y, " ".join(g)) for m, t, y, g in CATALOGUE],
        ),
    }
    return {kind: "\n".join([header, *("\t".join(row) for row in rows)]) + "\n" for kind, (header, rows) in tables.items()}


def _recbole(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for kind, text in _recbole_texts().items():
        (folder / f"ml-100k.{kind}").write_text(text, encoding="utf-8")
    return folder


def _wheel(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for kind, text in _recbole_texts().items():
            archive.writestr(f"recbole/dataset_example/ml-100k/ml-100k.{kind}", text)
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> movielens.MovieLens:
    return movielens.read(_grouplens(tmp_path_factory.mktemp("ml")))


@pytest.mark.parametrize("layout", ["recbole folder", "parent of the recbole folder", "wheel", "parent of grouplens' folder"])
def test_every_layout_gives_the_same_interactions(layout: str, source: movielens.MovieLens, tmp_path: Path) -> None:
    match layout:
        case "recbole folder":
            other = movielens.read(_recbole(tmp_path))
        case "parent of the recbole folder":
            _recbole(tmp_path / "ml-100k")
            other = movielens.read(tmp_path)
        case "wheel":
            other = movielens.read(_wheel(tmp_path / "recbole-1.2.1-py3-none-any.whl"))
        case _:
            _grouplens(tmp_path / "ml-100k")
            other = movielens.read(tmp_path)
    assert other.data.fingerprint() == source.data.fingerprint()
    assert other.movies.keys() == source.movies.keys()
    assert [(m.title, m.genres) for m in other.movies.values()] == [(m.title, m.genres) for m in source.movies.values()]
    np.testing.assert_array_equal(other.rating, source.rating)
    np.testing.assert_array_equal(other.data.grade, source.data.grade)


def test_values_are_those_of_the_files(source: movielens.MovieLens) -> None:
    columns, (user, movie, rating, _) = source.data.columns, RATINGS[0]
    _, title, year, genres = CATALOGUE[int(movie) - 1]
    assert (columns["user_id"][0], columns["id"][0], source.rating[0]) == (user, movie, rating)
    assert columns["age"][0] == 19 + int(user)
    assert source.movies[movie].title == title
    assert [genre for genre in columns["genres"][0] if genre != MISSING_STRING] == list(genres)
    assert np.isnan(columns["year"][0]) if not year else columns["year"][0] == float(year)
    assert source.movies["1"].title == "Amélie", "u.item is latin-1"


def test_a_click_is_a_rating_of_four_or_five(source: movielens.MovieLens) -> None:
    np.testing.assert_array_equal(source.data.label, (source.rating >= 4).astype(np.float32))
    assert source.data.grade is not None
    assert [source.data.grade[source.rating == r][0] for r in range(1, 6)] == pytest.approx(movielens.GRADES)


@pytest.mark.parametrize(
    ("file", "line", "broken", "message"),
    [
        ("u.data", 3, "1\t2\t3", r"u\.data line 3: 3 fields, expected 4"),
        ("u.user", 2, "2|30|M", r"u\.user line 2: 3 fields, expected 5"),
        ("u.item", 4, "4|M (1931)|", r"u\.item line 4: 3 fields, expected 24"),
        ("u.data", 5, "999\t1\t3\t880000000", r"line 5: .*user '999'"),
        ("u.data", 6, "1\t999\t3\t880000000", r"line 6: .*movie '999'"),
        ("u.data", 7, "1\t1\tfive\t880000000", r"line 7: .*'five'"),
        ("u.data", 8, "1\t1\t6\t880000000", r"line 8: .*rating 6"),
        ("u.data", 9, "1\t1\t0\t880000000", r"line 9: .*rating 0"),
        ("u.user", 1, "1|old|M|writer|90000", r"age of user '1' is 'old'"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(file: str, line: int, broken: str, message: str, tmp_path: Path) -> None:
    folder = _grouplens(tmp_path)
    lines = (folder / file).read_text(encoding="latin-1").splitlines()
    lines[line - 1] = broken
    (folder / file).write_text("\n".join(lines) + "\n", encoding="latin-1")
    with pytest.raises(DataError, match=message):
        movielens.read(folder)


def test_a_short_line_of_an_atomic_file_is_named(tmp_path: Path) -> None:
    folder = _recbole(tmp_path)
    text = (folder / "ml-100k.inter").read_text().splitlines()
    text[4] = "1\t2"
    (folder / "ml-100k.inter").write_text("\n".join(text))
    with pytest.raises(DataError, match=r"ml-100k\.inter line 5: 2 fields, the header has 4"):
        movielens.read(folder)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape(f"{tmp_path} holds no MovieLens-100k")):
        movielens.read(tmp_path)
    (_grouplens(tmp_path) / "u.user").unlink()
    with pytest.raises(DataError, match=r"u\.user cannot be read"):
        movielens.read(tmp_path)


@pytest.mark.parametrize("kind", ["no archive", "archive without the data"])
def test_a_wheel_without_the_data_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "other.whl"
    if kind == "no archive":
        path.write_text("not a zip")
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("recbole/__init__.py", "")
    with pytest.raises(DataError, match=r"other\.whl"):
        movielens.read(path)


def _met(row: np.ndarray) -> list[str]:
    return [movie for movie in row.tolist() if movie != MISSING_STRING]


@pytest.mark.parametrize("how", ["random", "chronological"])
def test_histories_come_from_training_alone_latest_first(how: str, source: movielens.MovieLens) -> None:
    split = movielens.split(source, how, 0)
    rated = {(u, m): (r, t) for u, m, r, t in RATINGS}
    trained = set(zip(split.train.columns["user_id"], split.train.columns["id"], strict=True))
    for part in (split.validation, split.test):
        for row in range(len(part)):
            user = part.columns["user_id"][row]
            liked, disliked = (_met(part.columns[name][row]) for name in ("liked", "disliked"))
            assert {(user, movie) for movie in liked + disliked} == {pair for pair in trained if pair[0] == user}
            assert all(rated[user, movie][0] >= 4 for movie in liked)
            assert all(rated[user, movie][0] < 4 for movie in disliked)
            for movies in (liked, disliked):
                moments = [rated[user, movie][1] for movie in movies]
                assert moments == sorted(moments, reverse=True)


def test_a_training_row_does_not_see_its_own_fold(source: movielens.MovieLens) -> None:
    """Rows of one user and one fold share one history, and it has no movie of that fold."""
    train = movielens.split(source, "random", 0).train
    own: dict[tuple[str, tuple[str, ...]], set[str]] = {}
    of_user: dict[str, set[str]] = {}
    for row in range(len(train)):
        user = train.columns["user_id"][row]
        history = tuple(sorted(_met(train.columns["liked"][row]) + _met(train.columns["disliked"][row])))
        own.setdefault((user, history), set()).add(train.columns["id"][row])
        of_user.setdefault(user, set()).add(train.columns["id"][row])
    for (user, history), movies in own.items():
        assert set(history) == of_user[user] - movies, "everything but the rows that share this history"
    folds_per_user = [sum(user == u for u, _ in own) for user in of_user]
    assert max(folds_per_user) <= movielens.FOLDS
    assert min(folds_per_user) > movielens.FOLDS / 2, "20 ratings a user over 10 folds"


def test_history_is_cut_to_the_latest(source: movielens.MovieLens, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = movielens.split(source, "random", 0).test.columns["liked"]
    monkeypatch.setattr(movielens, "MAX_HISTORY", 3)
    cut = movielens.split(source, "random", 0).test.columns["liked"]
    assert cut.shape[1] == 3
    np.testing.assert_array_equal(cut, whole[:, :3])


def test_split_is_a_function_of_the_seed(source: movielens.MovieLens) -> None:
    first, again, other = (movielens.split(source, "random", seed).train.fingerprint() for seed in (1, 1, 2))
    assert first == again != other
