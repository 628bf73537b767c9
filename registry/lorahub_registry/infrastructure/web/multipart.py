"""Forms with files: bounded, and on disk beyond 1 MiB, so that memory holds none of them whole."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import Request
from lorahub.errors import MalformedBody, UnsupportedMediaType
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser

from lorahub_registry.infrastructure.storage import Disk
from lorahub_registry.infrastructure.web.bodies import pieces

TYPE = "multipart/form-data"
MOST_FILES = 200
MOST_FIELDS = 1000
_FIELD_BYTES = 64 << 10


@asynccontextmanager
async def received(request: Request, *, limit: int, reserve_bytes: int) -> AsyncIterator[FormData]:
    """The fields and files of the form, gone when it is left. `reserve_bytes` stay free where they lie meanwhile.

    Raises `UnsupportedMediaType`, `MalformedBody`, `PayloadTooLarge` as soon as `limit` bytes are passed, `DiskFull`.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != TYPE:
        raise UnsupportedMediaType(f"a form with files is sent as {TYPE}")
    body = _fitting(pieces(request, limit=limit), Disk(Path(tempfile.gettempdir()), reserve_bytes))
    parser = MultiPartParser(
        request.headers,
        body,  # type: ignore[arg-type]  # it is one
        max_files=MOST_FILES,
        max_fields=MOST_FIELDS,
        max_part_size=_FIELD_BYTES,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise MalformedBody(f"the form can't be read: {error.message}") from None
    try:
        yield form
    finally:
        await form.close()


async def _fitting(body: AsyncIterator[bytes], disk: Disk) -> AsyncIterator[bytes]:
    async for piece in body:
        disk.require(len(piece))
        yield piece
