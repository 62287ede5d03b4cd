"""The least HTTP/1.1 client that can keep a connection busy: one request at a time, answers with a content length."""

import asyncio
from typing import Final, Self, cast

_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length:"


class Connection(asyncio.Protocol):
    """A keep-alive connection. `closed` once it cannot be used any more."""

    def __init__(self, host: str) -> None:
        self.closed = False
        self._host: Final = host
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    @classmethod
    async def open(cls, host: str, port: int) -> Self:
        """A new connection. Raises OSError when nobody answers."""
        _, connection = await asyncio.get_running_loop().create_connection(lambda: cls(f"{host}:{port}"), host, port)
        return connection

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """(status, body) of a JSON request. Raises ConnectionError when the connection breaks or is closed."""
        if self.closed or self._transport is None:
            raise ConnectionResetError("the connection is closed")
        self._answer = asyncio.get_running_loop().create_future()
        head = f"POST {path} HTTP/1.1\r\nhost: {self._host}\r\ncontent-type: application/json\r\n"
        self._transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        return await self._answer

    def close(self) -> None:
        """Closes it; the other side sees the end of the stream."""
        self.closed = True
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = cast(asyncio.Transport, transport)  # other loops have transports of other classes

    def data_received(self, data: bytes) -> None:
        """Called by asyncio: collects until the answer is complete."""
        self._buffer += data
        end = self._buffer.find(_END)
        if end < 0:
            return
        head = bytes(self._buffer[:end]).lower()
        at = head.find(_LENGTH)
        if at < 0:
            self._settle(ConnectionAbortedError("an answer without a content length"))
            self.close()
            return
        length = int(head[at + len(_LENGTH) :].split(b"\r\n", 1)[0])
        start = end + len(_END)
        if len(self._buffer) >= start + length:
            body = bytes(self._buffer[start : start + length])
            del self._buffer[: start + length]
            self._settle((int(head[9:12]), body))

    def connection_lost(self, error: Exception | None) -> None:
        """Called by asyncio."""
        self.closed = True
        self._settle(error or ConnectionResetError("the server closed the connection"))

    def _settle(self, answer: tuple[int, bytes] | Exception) -> None:
        waiting, self._answer = self._answer, None
        if waiting is None or waiting.done():
            return
        if isinstance(answer, Exception):
            waiting.set_exception(answer)
        else:
            waiting.set_result(answer)
