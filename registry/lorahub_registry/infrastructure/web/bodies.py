"""Receives request bodies within stated bounds. Receiving is the one thing that runs on the event loop;
writing, hashing and parsing happen in worker threads, so a slow client holds no thread.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Annotated, Any, BinaryIO, TypeVar, cast

from anyio import CancelScope, to_thread
from fastapi import Depends, Request
from lorahub.adapters.strict_json import parse_json
from lorahub.errors import (
    DiskFull,
    InvalidInput,
    MalformedBody,
    PayloadTooLarge,
    SizeMismatch,
    TooManyRequests,
    UnsupportedMediaType,
)
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from lorahub_registry.infrastructure.backend import Backend
from lorahub_registry.infrastructure.storage import Disk
from lorahub_registry.infrastructure.threads import STORAGE
from lorahub_registry.infrastructure.web.backend import BackendDep
from lorahub_registry.infrastructure.web.description import reads, refuses
from lorahub_registry.infrastructure.web.problems import validation_message

SILENCE_SECONDS = 60  # a client that sends nothing for this long is gone
_BUFFER_BYTES = 1 << 20
_SPOOL_MEMORY_BYTES = 1 << 20
_OTHER_LINES = 3  # of a commit: its header, its version, and that all there was goes

Model = TypeVar("Model", bound=BaseModel)


async def pieces(request: Request, *, limit: int, operations: int | None = None) -> AsyncIterator[bytes]:
    """The body in pieces of about 1 MiB. Raises `PayloadTooLarge` as soon as `limit` bytes are passed, or where it is a
    commit's, the lines that so many `operations` take.
    """
    _refuse_encoded(request)
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise PayloadTooLarge(f"the body has {declared} bytes; at most {limit} are taken here")
    buffer, total, lines = bytearray(), 0, 0
    stream = request.stream().__aiter__()
    while (piece := await _next(stream)) is not None:
        total += len(piece)
        if total > limit:
            raise PayloadTooLarge(f"the body is longer than the {limit} bytes taken here")
        if operations is not None:
            lines += piece.count(b"\n")
            if lines > operations + _OTHER_LINES:
                raise PayloadTooLarge(
                    f"the commit adds and deletes more than {operations} files", hint="split it into several commits"
                )
        buffer += piece
        if len(buffer) >= _BUFFER_BYTES:
            yield bytes(buffer)
            buffer.clear()
    if buffer:
        yield bytes(buffer)


async def _next(stream: AsyncIterator[bytes]) -> bytes | None:
    try:
        async with asyncio.timeout(SILENCE_SECONDS):
            return await anext(stream, None)
    except ClientDisconnect:
        raise MalformedBody("the connection broke before the body was complete") from None
    except TimeoutError:
        raise TooManyRequests(f"nothing arrived for {SILENCE_SECONDS} s", retry_after=5) from None


async def receive_into(
    request: Request,
    file: BinaryIO,
    *,
    limit: int,
    operations: int | None = None,
    in_thread: Callable[..., Awaitable[Any]] = to_thread.run_sync,
) -> int:
    """Writes the body to `file`, in threads of the kind that waits for it; the number of bytes."""
    total = 0
    async for piece in pieces(request, limit=limit, operations=operations):
        await in_thread(file.write, piece)
        total += len(piece)
    return total


async def receive_object(request: Request, writer: AbstractContextManager[BinaryIO], *, size: int) -> None:
    """The body becomes the object that `writer` writes, or nothing does.

    Raises `SizeMismatch` unless it has exactly `size` bytes, `DiskFull`.
    """
    async with _in_threads(writer) as file:
        try:
            received = await receive_into(request, file, limit=size, in_thread=STORAGE.go_on)
        except PayloadTooLarge:
            raise SizeMismatch(f"more than the announced {size} bytes arrived") from None
        if received != size:
            raise SizeMismatch(f"{received} bytes arrived, {size} were announced", hint="send them again")


def declared_size(request: Request, *, limit: int) -> int:
    """The body's size in bytes. Raises `MalformedBody` where no header says so, `PayloadTooLarge` over `limit`."""
    declared = request.headers.get("content-length", "")
    if not (declared.isascii() and declared.isdigit()):
        raise MalformedBody("say in Content-Length how many bytes come: room is kept for them first")
    if int(declared[:20]) > limit:
        raise PayloadTooLarge(f"the body has {declared[:20]} bytes; at most {limit} are taken here")
    return int(declared)


@asynccontextmanager
async def _in_threads(manager: AbstractContextManager[BinaryIO]) -> AsyncIterator[BinaryIO]:
    """A writer of the storage, entered and left in its threads: leaving it waits for the disk. Raises `Busy`."""
    file = await STORAGE.begin(manager.__enter__)
    try:
        yield file
    except BaseException as error:
        with CancelScope(shield=True):
            await STORAGE.go_on(manager.__exit__, type(error), error, error.__traceback__)
        raise
    await STORAGE.go_on(manager.__exit__, None, None, None)


async def discard_body(request: Request, *, limit: int) -> None:
    async for _ in pieces(request, limit=limit):
        pass


@refuses(MalformedBody, PayloadTooLarge, TooManyRequests, UnsupportedMediaType)
async def raw_body(request: Request, backend: BackendDep) -> bytes:
    return b"".join([piece async for piece in pieces(request, limit=backend.settings.json_body_bytes)])


@reads("application/json")
def json_object(body: Annotated[bytes, Depends(raw_body)]) -> dict[str, Any]:
    """The body as a JSON object; an empty body is an empty object, as some clients send none."""
    value = parse_json(body, error=MalformedBody) if body.strip() else {}
    if not isinstance(value, dict):
        raise MalformedBody(f"the body is a JSON {type(value).__name__}; expected an object")
    return value


def json_model(model: type[Model]) -> Any:
    """A dependency: the body as `model`. Unknown fields are ignored, as clients of other generations send them."""

    @reads("application/json", model)
    def read(value: Annotated[dict[str, Any], Depends(json_object)]) -> Model:
        try:
            return model.model_validate(value)
        except ValidationError as error:
            raise InvalidInput(validation_message(error.errors())) from None

    return Depends(read)


@refuses(DiskFull, MalformedBody, PayloadTooLarge, TooManyRequests, UnsupportedMediaType)
async def spooled_body(request: Request, backend: BackendDep) -> AsyncIterator[BinaryIO]:
    """The body of a commit as a file at its start: in memory while small, on disk beyond 1 MiB."""
    async with _spooled(request, backend, backend.settings.commit_body_bytes) as file:
        yield file


@refuses(DiskFull, MalformedBody, PayloadTooLarge, TooManyRequests, UnsupportedMediaType)
async def spooled_lines(request: Request, backend: BackendDep) -> AsyncIterator[BinaryIO]:
    """That of a commit, the same way. One of too many lines is refused when the first of them arrives."""
    most = backend.settings.commit_operations
    async with _spooled(request, backend, backend.settings.commit_body_bytes, operations=most) as file:
        yield file


async def bundle_body(request: Request, backend: BackendDep) -> AsyncIterator[BinaryIO]:
    """A bundle, the same way."""
    async with _spooled(request, backend, backend.settings.bundle_bytes) as file:
        yield file


@asynccontextmanager
async def _spooled(
    request: Request, backend: Backend, limit: int, *, operations: int | None = None
) -> AsyncIterator[BinaryIO]:
    home = Disk(backend.settings.registry_home, backend.settings.disk_reserve_bytes)
    if "content-length" in request.headers:
        home.require(declared_size(request, limit=limit))
    with tempfile.SpooledTemporaryFile(max_size=_SPOOL_MEMORY_BYTES, dir=str(home.folder)) as spool:
        file = cast(BinaryIO, spool)  # it is one; typeshed does not say so
        await receive_into(request, home.guarded(file), limit=limit, operations=operations)
        file.seek(0)
        yield file


SpooledLines = Annotated[BinaryIO, Depends(spooled_lines)]
SpooledBody = Annotated[BinaryIO, Depends(spooled_body)]
BundleBody = Annotated[BinaryIO, Depends(bundle_body)]


def _refuse_encoded(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise UnsupportedMediaType(f"Content-Encoding {encoding[:40]!r} is not taken; send the body as it is")
