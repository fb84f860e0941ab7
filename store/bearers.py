"""Bearers: whose pseudonym it is. Only the home's key tells, so every id of a version is tagged until it is known."""

from collections.abc import Callable

from schemas.errors import InputError, NotFoundError
from store.comparison import View
from store.history import user_history
from store.home import Home
from store.pseudonyms import Pseudonyms, is_name
from store.versions import resolve


def bearer(home: Home, user_id: str, reference: str | int | None = None, looked: Callable[[int], object] = int) -> str:
    """The user who is meant by an id or by a pseudonym.

    An id is meant as it stands, unless it has the form of a pseudonym (``user-3f9a…``) and no version holds a user of that very id. Then
    the ids of one version are looked through, in batches; all of them, since few users out of very many share a shortened tag, and to
    name the wrong one would be worse than to take longer.

    Args:
        reference: the version whose users are looked through, as of ``resolve``; production's by default.
        looked: told how many rows were looked at, after each batch.

    Raises:
        NotFoundError: no user of that version bears the pseudonym, or there is no such version.
        InputError: several do; names them.
    """
    if not is_name(user_id) or any(entry.present for entry in user_history(home, user_id)):
        return user_id
    record = resolve(home, reference)
    states, pseudonyms = View.of(home, record).states, Pseudonyms(home)
    hits: dict[str, None] = {}
    for ids in states.ids(record.runs):
        hits |= dict.fromkeys(pseudonyms.bearers(ids, user_id))
        looked(len(ids))
    # A run of the version may have written users whose events went in a later one.
    found = sorted(user for user in hits if states.user(record.runs, user).num_rows)
    if not found:
        raise NotFoundError(
            f"no user of version {record.number} bears the pseudonym {user_id}",
            where=home.uri,
            mend=f"name the version of the report it stands in: tapstate show {user_id} --version N; an erased user's is nobody's",
        )
    if len(found) > 1:
        raise InputError(
            f"{len(found)} users of version {record.number} bear the pseudonym {user_id}: {', '.join(map(repr, found))}",
            where=home.uri,
            mend="look at each by id, and see whose figures are those of the report",
        )
    return found[0]
