"""A TCP connection that breaks at a chosen moment: before it is made, at some words, or before they are answered."""

import socket
import struct
import threading

_RESET = struct.pack("ii", 1, 0)


class BreakingWire:
    """Leads to `port` on this machine. What is armed happens once; `is_cut` lasts."""

    def __init__(self, port: int) -> None:
        self.is_cut = False
        self.broken = threading.Event()
        self._to = port
        self._words: bytes | None = None
        self._is_heard = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def break_at(self, words: bytes, *, is_heard: bool) -> None:
        """When a client next sends `words`. `is_heard`: the server gets them, and only its answer is lost."""
        self.broken.clear()
        self._is_heard, self._words = is_heard, words

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                if self.is_cut:
                    raise ConnectionRefusedError
                server = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                _reset(client)
                continue
            mute = threading.Event()
            for source, sink in ((client, server), (server, client)):
                arguments = (source, sink, mute, source is client)
                threading.Thread(target=self._carry, args=arguments, daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, mute: threading.Event, is_client: bool) -> None:  # noqa: FBT001
        try:
            while data := source.recv(1 << 16):
                if is_client and self._words is not None and self._words in data:
                    self._words = None
                    self.broken.set()
                    if not self._is_heard:
                        break
                    mute.set()
                elif not is_client and mute.is_set():
                    break
                sink.sendall(data)
        except OSError:
            pass
        _reset(source)
        _reset(sink)


def _reset(end: socket.socket) -> None:
    try:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    end.close()
