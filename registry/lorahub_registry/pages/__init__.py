"""The catalog, for people: one router for each kind of page, in the order in which addresses are looked up."""

from lorahub_registry.infrastructure.web.pages import PageRouter
from lorahub_registry.pages import (
    accounts,
    administration,
    badges,
    compare,
    home,
    merging,
    notifications,
    places,
    search,
    webhooks,
)
from lorahub_registry.pages.adapter import images, settings, tabs, uploading

router = PageRouter()
for part in (accounts, administration, home, search, compare, merging, notifications, webhooks, badges, places):
    router.include_router(part.router)
for part in (settings, uploading, images, tabs):
    router.include_router(part.router)
router.include_router(places.own_names)
