"""A hub that answers as the public one does, forgetting between tests what it was asked."""

from collections.abc import Iterator

import pytest
from hub_stand_in import StandIn


@pytest.fixture(scope="module")
def the_hub() -> Iterator[StandIn]:
    with StandIn() as running:
        yield running


@pytest.fixture
def hub(the_hub: StandIn) -> StandIn:
    the_hub.forget()
    return the_hub
