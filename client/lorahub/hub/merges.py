"""`hub.merges`: merges that the registry makes; `Hub.merge` makes them here."""

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from lorahub.errors import Conflict, NotMergeable
from lorahub.hub.api import OWN, Api, element
from lorahub.hub.progress import Progress
from lorahub.protocol.messages.merges import MergeJob, PlannedMerge

if TYPE_CHECKING:
    from lorahub.merging.recipe import Recipe  # brings numpy, which most commands don't need

_MERGES = f"{OWN}/merges"
_POLL_SECONDS = 0.5


class Merges:
    def __init__(self, api: Api, progress: Progress) -> None:
        self._api = api
        self._progress = progress

    def plan(self, recipe: "Recipe") -> PlannedMerge:
        """What the registry would merge. Nothing is started."""
        return self._api.ask(PlannedMerge, "a plan", "POST", f"{_MERGES}/plan", body=self._of_ours(recipe).as_json())

    def start(self, recipe: "Recipe", target: str, *, private: bool = False) -> MergeJob:
        """Asks the registry to merge, and to publish the result in the repository `target`.

        The same recipe for the same target is the same job. Raises what planning raises, `TooManyRequests`.
        """
        name = str(self._api.reference(target).repository)
        body = {"recipe": self._of_ours(recipe).as_json(), "target": name, "private": private}
        return self._api.ask(MergeJob, "a job", "POST", _MERGES, body=body)

    def newest(self) -> list[MergeJob]:
        """Our own, the newest first."""
        return self._api.ask(list[MergeJob], "jobs", "GET", _MERGES)

    def find(self, job: str) -> MergeJob:
        return self._api.ask(MergeJob, "a job", "GET", f"{_MERGES}/{element(job)}")

    def cancel(self, job: str) -> MergeJob:
        return self._api.ask(MergeJob, "a job", "POST", f"{_MERGES}/{element(job)}/cancel")

    def wait(self, job: str, progress: Progress | None = None) -> MergeJob:
        """Until it is over. Raises `NotMergeable` where it failed, `Conflict` where it was cancelled."""
        shown, seen = progress or self._progress, 0
        found = self.find(job)
        shown.begin("merging", found.bytes)
        while found.is_open:
            time.sleep(_POLL_SECONDS)
            found = self.find(job)
            shown.advance(found.done - seen)
            seen = found.done
        shown.end()
        if found.status == "failed":
            raise NotMergeable(str(found.error), hint="see the registry's log for the rest")
        if found.status == "cancelled":
            raise Conflict(f"the merge {job} was cancelled")
        return found

    def _of_ours(self, recipe: "Recipe") -> "Recipe":
        """With names as the registry itself writes them. Raises `InvalidReference` for what isn't there."""
        adapters = (replace(one, source=self._plain(one.source)) for one in recipe.adapters)
        return replace(recipe, base=self._plain(recipe.base), adapters=tuple(adapters))

    def _plain(self, source: str) -> str:
        return str(replace(self._api.reference(source), scheme="lorahub", host=None))
