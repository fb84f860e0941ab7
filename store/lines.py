"""Lines: the versions of one aggregator. Two can live side by side, production's and a newer one that is to take its place.

Each training opens a line: a numbered record names its aggregator and the encoder it was made with. The *newest line* is that of the
last record, *production's line* that of the version ``production`` names. Where they differ, the newest line is the *candidate*; both
are refreshed every night. Promoting a version of the candidate makes its line production's, and the old line is refreshed no more.
"""

from schemas.config import EncoderConfig
from schemas.errors import ConfigError, ConflictError, NotFoundError
from schemas.records import LineRecord, VersionRecord
from store.home import Home, provenance
from store.versions import PRODUCTION, current

CANDIDATE = "candidate"


class Lines:
    """Lines of a home.

    Args:
        home: the home.
    """

    def __init__(self, home: Home) -> None:
        self.home = home

    def newest(self) -> str | None:
        """Aggregator of the newest line; None before any training."""
        record = self.home.lines.get(self.home.lines.last())
        if record:
            return record.aggregator
        # Homes of release 0.1.0 name it here.
        data = self.home.objects.get("current/aggregator")
        return data.decode() if data else None

    def production(self) -> VersionRecord | None:
        """The version that ``production`` names."""
        number = current(self.home, PRODUCTION)
        return self.home.versions.get(number) if number else None

    def live(self) -> list[str | None]:
        """Aggregators to refresh every night, production's first; None stands for the untrained one that the configuration gives."""
        newest, production = self.newest(), self.production()
        # An untrained line has no head and serves nobody: the next line takes its place without being a candidate.
        if production is None or not production.trained or production.aggregator == newest:
            return [newest]
        return [production.aggregator, newest] if newest else [production.aggregator]

    def find(self, name: str) -> str:
        """Aggregator of the line that is called ``production``, ``candidate``, or by (the beginning of) its hash.

        Raises:
            NotFoundError: no such line.
            ConfigError: more than one hash begins so.
        """
        mend = "tapstate lines"
        if name == PRODUCTION:
            record = self.production()
            if record is None:
                raise NotFoundError("production names no version yet", where=self.home.uri, mend="tapstate refresh")
            return record.aggregator
        if name == CANDIDATE:
            live = self.live()
            if len(live) < 2 or live[1] is None:
                raise NotFoundError("there is no candidate line beside production's", where=self.home.uri, mend="tapstate train")
            return live[1]
        found = [aggregator for aggregator in self.all() if name and aggregator.startswith(name)]
        if not found:
            raise NotFoundError(f"no line {name!r}", where=self.home.uri, mend=mend)
        if len(found) > 1:
            raise ConfigError(f"{name!r} begins {len(found)} lines: {', '.join(f[:12] for f in found)}", where=self.home.uri, mend=mend)
        return found[0]

    def all(self) -> list[str]:
        """Aggregators that have a record or a version, oldest first."""
        opened = [record.aggregator for record in self.home.lines.all()]
        newest = self.newest()
        return list(dict.fromkeys([v.aggregator for v in self.home.versions.all()] + opened + ([newest] if newest else [])))

    def encoder(self, aggregator: str | None) -> EncoderConfig:
        """How a line's texts are encoded; the home's configuration for a line that has no record."""
        for number in range(self.home.lines.last(), 0, -1):
            record = self.home.lines.get(number)
            if record and record.aggregator == aggregator:
                return record.encoder
        return self.home.config.encoder

    def open(self, aggregator: str, encoder: EncoderConfig, *, reason: str) -> LineRecord:
        """Make ``aggregator``'s line the newest.

        Raises:
            ConflictError: another line was opened meanwhile.
        """
        number = self.home.lines.last() + 1
        fields = {"number": number, "aggregator": aggregator, "encoder": encoder, "reason": reason}
        record = LineRecord.model_validate({**provenance(), **fields})
        if not self.home.lines.append(number, record):
            raise ConflictError("another line was opened meanwhile", where=self.home.uri, mend="tapstate lines, then decide again")
        return record
