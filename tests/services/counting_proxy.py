"""Stands before a server and counts the bytes that pass, both ways."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import SplitResult, urlsplit


@contextmanager
def counting_proxy(url: str) -> Iterator[tuple[str, Callable[[], int]]]:
    """Its address, and how many bytes have passed to and from the server at `url`."""
    proxy = _Proxy(urlsplit(url))
    proxy.start()
    assert proxy.is_ready.wait(10)
    try:
        yield f"http://127.0.0.1:{proxy.port}", lambda: proxy.passed
    finally:
        proxy.loop.call_soon_threadsafe(proxy.loop.stop)
        proxy.join()


class _Proxy(threading.Thread):
    """Its loop lives in this thread only: the tests' own may have one that runs, a browser's."""

    def __init__(self, target: SplitResult) -> None:
        super().__init__()
        self.passed, self.port = 0, 0
        self.loop, self.is_ready = asyncio.new_event_loop(), threading.Event()
        self._target = target

    def run(self) -> None:
        server = self.loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self.is_ready.set()
        self.loop.run_forever()
        server.close()
        self.loop.run_until_complete(self._end(asyncio.all_tasks(self.loop)))
        self.loop.close()

    @staticmethod
    async def _end(tasks: set[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # in which what was aborted is closed

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._target.hostname, self._target.port)
        try:
            await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
        finally:
            back.transport.abort()
            writer.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while piece := await source.read(1 << 16):
                self.passed += len(piece)
                sink.write(piece)
                await sink.drain()
        sink.close()
