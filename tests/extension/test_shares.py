"""The file of shares: several servers, what is over, what cannot be read."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from jupyter_tfserve.extension import shares
from jupyter_tfserve.extension.shares import Record, Shares, digest, new_key
from jupyter_tfserve.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def record(share: str, kind: Any, *models: str, **more: Any) -> Record:
    return Record(id=share, kind=kind, models=models, created=time.time(), **more)


def test_two_servers_see_each_others_shares(store: Store) -> None:
    one, other = Shares(store), Shares(store)
    key = new_key()
    one.add(record("k", "key", "m", sha256=digest(key), versions=(1, 2)))
    assert other.key(key) is None
    assert other.refresh() and not other.refresh()
    found = other.key(key)
    assert found is not None and found.grant().versions == (1, 2)
    assert other.key(key + "x") is None and other.key("") is None and other.key(digest(key)) is None
    other.remove("k")
    assert one.refresh() and one.key(key) is None
    assert one.remove("k") is None


def test_what_a_user_of_the_hub_may(store: Store) -> None:
    here, named = Shares(store), Shares(store, "lab")
    assert here.for_user("ann") is None  # nothing of ours explains the scope: it is the admin's word
    here.add(record("l", "link", "a"))
    here.add(record("u", "user", "b", user="ann", rate=1.0))
    here.add(record("v", "user", "c", user="ann", rate=2.0, concurrency=1))
    named.refresh()

    def models(where: Shares, user: str) -> Any:
        grant = where.for_user(user)
        return grant and (grant.models, grant.rate, grant.concurrency)

    assert models(here, "ann") == (("b", "c"), 3.0, None)
    assert models(here, "bob") == (("a",), None, None)
    assert models(named, "ann") is None  # another server of the same owner
    here.expire("l")
    assert models(here, "bob") == ((), None, None)  # not None: the Hub may still say that he has the scope


def test_a_file_that_cannot_be_read_lets_nobody_in(store: Store) -> None:
    key = new_key()
    Shares(store).add(record("k", "key", "m", sha256=digest(key)))
    (store.root / shares.FILE).write_text("{ half")
    broken = Shares(store)
    assert broken.key(key) is None
    grant = broken.for_user("ann")
    assert grant is not None and grant.models == ()
    with pytest.raises(ValueError):
        broken.refresh()


def test_use_is_noted_and_old_keys_are_forgotten(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Shares(store)
    one.add(record("new", "key", "m", sha256=digest(new_key())))
    one.add(record("old", "key", "m", sha256=digest(new_key()), expires=time.time() - 31 * 24 * 3600))
    assert [share.id for share in one] == ["new"]
    one.use("new")
    assert next(iter(Shares(store))).last_used is None
    monkeypatch.setattr(shares, "_NOTE_USE", -1.0)
    one.refresh()
    assert next(iter(Shares(store))).last_used is not None
    one.use("new")
    one.add(record("more", "key", "m", sha256=digest(new_key())))
    assert [share.id for share in Shares(store)] == ["new", "more"]
