"""Stands before a server (a registry's S3, or a registry), and does to chosen requests what networks and storages do.

with FaultProxy(upstream_port) as proxy:
    proxy.faults.append(Fault("flip", method="GET", times=10))
"""

import asyncio
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Self

from services.ports import free_port

Kind = Literal["503", "507", "reset", "truncate", "cut", "flip", "error-200", "hold", "late"]
"""A body that is cut is as short as a truncated one, and its reader has all that was sent. What is held passes when the
proxy lets it go, what is late after `LATE_SECONDS`.
"""
LATE_SECONDS = 3

_REFUSALS = {
    "503": (b"503 Service Unavailable", b"<Error><Code>SlowDown</Code><Message>Reduce your rate</Message></Error>"),
    "507": (b"507 Insufficient Storage", b"<Error><Code>XMinioStorageFull</Code><Message>Disk full</Message></Error>"),
    "error-200": (b"200 OK", b"<Error><Code>InternalError</Code><Message>Please try again</Message></Error>"),
}


@dataclass
class Fault:
    """What happens to the next `times` requests of this method whose address contains `part`."""

    kind: Kind
    method: str
    part: str = ""
    times: int = 1
    done: int = 0

    def takes(self, method: str, address: str) -> bool:
        return self.done < self.times and method == self.method and self.part in address


class FaultProxy:
    """An HTTP proxy by bytes: what no fault takes passes unchanged, so that signatures stay good."""

    def __init__(self, upstream_port: int) -> None:
        self.port = free_port()
        self.faults: list[Fault] = []
        self._upstream_port = upstream_port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()
        self._is_open = asyncio.Event()
        self._serving: set[asyncio.Task[None] | None] = set()  # asyncio itself holds a task weakly

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def let_go(self) -> None:
        """Of what is held, now and from now on."""
        self._loop.call_soon_threadsafe(self._is_open.set)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", self.port))
        self._ready.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request for each connection, so that a request's bytes are known."""
        self._serving.add(task := asyncio.current_task())
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            method, address, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
            fault = next((fault for fault in self.faults if fault.takes(method, address)), None)
            if fault is not None:
                fault.done += 1
            await self._answer(fault.kind if fault else None, head, reader, writer)
        with suppress(OSError):
            writer.close()
            await writer.wait_closed()
        self._serving.discard(task)

    async def _answer(
        self, kind: Kind | None, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if kind == "reset":
            _reset(writer)
            return
        if kind == "hold":
            await self._is_open.wait()
        if kind == "late":
            await asyncio.sleep(LATE_SECONDS)
        if kind in _REFUSALS:
            await _drain(head, reader, writer)
            status, body = _REFUSALS[kind]
            headers = b"Content-Type: application/xml\r\nConnection: close\r\nContent-Length: %d" % len(body)
            writer.write(b"HTTP/1.1 " + status + b"\r\n" + headers + b"\r\n\r\n" + body)
            await writer.drain()
            return
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        up_writer.write(_closing(head))
        sending = asyncio.ensure_future(_pump(reader, up_writer))
        try:
            await _relay(kind, up_reader, writer)
        finally:
            sending.cancel()
            up_writer.close()
            with suppress(OSError):
                await up_writer.wait_closed()


def _closing(head: bytes) -> bytes:
    """`Connection` is no part of a signature."""
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
    return b"\r\n".join([lines[0], b"Connection: close", *lines[1:]])


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await reader.read(1 << 16):
            writer.write(piece)
            await writer.drain()


async def _drain(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes the body, so that the client hears the answer."""
    headers = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
    if b"100-continue" in headers.get(b"expect", b""):
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    with suppress(asyncio.IncompleteReadError):
        await reader.readexactly(int(headers.get(b"content-length", b"0")))


async def _relay(kind: Kind | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    while head.startswith(b"HTTP/1.1 100"):
        writer.write(head)
        head = await reader.readuntil(b"\r\n\r\n")
    writer.write(_closing(head))
    length = next(
        (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), None
    )
    passed = 0
    while piece := await reader.read(1 << 16):
        middle = (length or 0) // 2
        if kind in ("truncate", "cut") and passed + len(piece) > middle:
            writer.write(piece[: max(0, middle - passed)])
            await writer.drain()
            if kind == "truncate":
                _reset(writer)
            return
        if kind == "flip" and passed <= middle < passed + len(piece):
            changed = bytearray(piece)
            changed[middle - passed] ^= 1
            piece = bytes(changed)
        writer.write(piece)
        passed += len(piece)
        await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """RST, not FIN: nothing looks like an orderly end."""
    connection: Any = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
