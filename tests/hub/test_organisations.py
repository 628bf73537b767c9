"""Organisations from the SDK: what is made and who belongs to it, as everybody else then sees it."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from lorahub.errors import AlreadyExists, Conflict, NotPermitted
from lorahub.hub.hub import Hub
from registry_process import Registry

NewUser = Callable[[], tuple[str, str]]


def test_an_organisation_is_made_and_its_members_are_changed(registry: Registry, new_user: NewUser) -> None:
    (owner, token), (other, others) = new_user(), new_user()
    name = f"{owner}-org"
    with Hub(registry.url, token=token) as hub, Hub(registry.url, token=others) as theirs:
        made = hub.organisations.create(name, "An organisation")
        assert (made.name, made.fullname) == (name, "An organisation")
        with pytest.raises(AlreadyExists):
            hub.organisations.create(name)
        with pytest.raises(NotPermitted):
            theirs.organisations.set_member(name, other, "admin")
        assert hub.organisations.set_member(name, other, "write").role == "write"
        assert {one.user: one.role for one in hub.organisations.members(name)} == {owner: "admin", other: "write"}
        assert theirs.whoami().organisations == {name: "write"}
        hub.organisations.remove_member(name, other)
        assert theirs.whoami().organisations == {}
        with pytest.raises(Conflict):
            hub.organisations.remove_member(name, owner)
        assert [one.user for one in hub.organisations.members(name)] == [owner]


def test_times_are_times(registry: Registry, new_user: NewUser) -> None:
    with Hub(registry.url, token=new_user()[1]) as hub:
        made, said = hub.whoami().token.created_at, hub.server().time
    assert made <= said <= datetime.now(UTC)
    assert made.tzinfo is UTC
