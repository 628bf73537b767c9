"""One router for each kind of page, together in the order in which addresses are looked up."""

from lorahub_registry.features.browsing.pages import (
    adapter,
    compare,
    home,
    images,
    merging,
    notifications,
    places,
    search,
    settings,
    uploading,
)
from lorahub_registry.infrastructure.web.pages import PageRouter

router = PageRouter()
for part in (home, search, compare, merging, notifications, places, settings, uploading, images, adapter):
    router.include_router(part.router)
router.include_router(places.own_names)
