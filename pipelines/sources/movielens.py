"""MovieLens as GroupLens publishes it: ``ratings.csv`` and ``movies.csv``."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import polars as pl

from pipelines.sources import RawBatch
from pipelines.sources.delimited import header, read_delimited
from pipelines.sources.files import File
from schemas.errors import InputError

_RATINGS = {name: name for name in ("userId", "movieId", "rating", "timestamp")}
_MOVIES = {name: name for name in ("movieId", "title", "genres")}


class MovieLensSource:
    """Ratings as events (tags are not read).

    ``user_id`` is the user, ``event_id`` ``rating:<movieId>`` (who rates a movie again corrects the rating), ``text``
    ``Title (year). Genre, Genre``, ``target`` the rating as text (``4.0``) and ``value`` as number. The movies are held
    in memory (some MB), the ratings are streamed. A rating of a movie that is not in ``movies.csv`` has no text.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)

    @property
    def name(self) -> str:
        """The directory."""
        return str(self.directory)

    def batches(self) -> Iterator[RawBatch]:
        """Raises InputError when a file or a column of it is missing."""
        ratings, movies = self._file("ratings.csv", _RATINGS), self._file("movies.csv", _MOVIES)
        return self._read(ratings, movies)

    def _file(self, name: str, columns: dict[str, str]) -> File:
        path = self.directory / name
        if not path.is_file():
            raise InputError(f"no {name} in the directory", where=self.name, mend="unzip ml-*.zip from grouplens.org there")
        file = File(str(path), "csv", False, str(path))
        missing = [column for column in columns if column not in (header(file) or [])]
        if missing:
            raise InputError(f"no column {', '.join(missing)}", where=file.name)
        return file

    def _read(self, ratings: File, movies: File) -> Iterator[RawBatch]:
        genres = pl.col("genres").str.replace_all("|", ", ", literal=True)
        text = pl.concat_str(
            pl.col("title").str.strip_chars(),
            pl.when(pl.col("genres") == "(no genres listed)").then(None).otherwise(genres),
            separator=". ", ignore_nulls=True,
        )  # fmt: skip
        read = [batch.rows for batch in read_delimited(movies, _MOVIES) if len(batch.rows)]
        empty = pl.DataFrame(schema={**dict.fromkeys(_MOVIES, pl.String()), "line": pl.Int64()})
        titles = pl.concat([empty, *read]).select("movieId", text.alias("text"))
        titles = titles.unique("movieId", keep="first", maintain_order=True)
        rating = pl.col("rating")
        fields = (
            pl.col("userId").alias("user_id"),
            pl.concat_str(pl.lit("rating:"), pl.col("movieId")).alias("event_id"),
            pl.col("timestamp").alias("ts"), "text", rating.alias("target"), rating.alias("value"), "line",
        )  # fmt: skip
        for batch in read_delimited(ratings, _RATINGS):
            if len(batch.rows):
                rows = batch.rows.join(titles, on="movieId", how="left", maintain_order="left").select(fields)
                yield replace(batch, rows=rows)
            elif len(batch) or batch.damaged:
                yield batch
