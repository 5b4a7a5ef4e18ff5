"""How the processes of a run talk: length-prefixed MessagePack frames over TCP after mutual proof of the run's token.

A frame is a little-endian uint32 length and that many bytes. The first frames of a connection are the handshake: each
side sends the protocol's name and version with a fresh nonce, then an HMAC-SHA256 over both nonces under the run's
token; compares are constant-time, and the two sides' proofs differ, so none can be sent back. Nothing is unpickled.
The trainer's side is blocking (`Connection`), the others' is trio (`AsyncConnection`); both share the pure parts.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import socket
import struct
import time
from collections.abc import Generator
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

import msgspec
import trio

from spo.errors import ConfigError, ConnectionLost
from spo.types import PROTOCOL_VERSION

MAX_FRAME_BYTES = 1 << 30
"""No frame is longer; checked before anything is allocated."""
MAX_HANDSHAKE_BYTES = 256
"""No frame of the handshake is longer."""
HANDSHAKE_TIMEOUT_S = 20.0
"""A peer that has not proved the token by then is cut off."""
TOKEN_BYTES = 32
ADDRESS_FILE = "orchestrator.address"
TOKEN_FILE = "token"

_MAGIC = b"spo-wire"
_NONCE_BYTES = 16
_LENGTH = struct.Struct("<I")
_encoder = msgspec.msgpack.Encoder()

In = TypeVar("In")


def new_token(run_dir: Path) -> bytes:
    """Makes the run's token, readable by its owner only."""
    token = secrets.token_bytes(TOKEN_BYTES)
    path = run_dir / TOKEN_FILE
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(token)
    return token


def read_token(run_dir: Path) -> bytes:
    """Reads the run's token; raises `OSError` where there is none."""
    return (run_dir / TOKEN_FILE).read_bytes()


def parse_address(address: str) -> tuple[str, int]:
    """Splits `host:port`.

    Raises:
        ConfigError: It is not of that form.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"address {address!r}: write HOST:PORT, such as 127.0.0.1:29600")
    return host.strip("[]"), int(port)


def frame(body: bytes) -> bytes:
    """A frame around `body`.

    Raises:
        ValueError: The body is longer than `MAX_FRAME_BYTES`.
    """
    if len(body) > MAX_FRAME_BYTES:
        raise ValueError(f"a message of {len(body)} bytes exceeds the frame limit of {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(body)) + body


def _body_length(header: bytes, limit: int) -> int:
    (length,) = _LENGTH.unpack(header)
    if length > limit:
        raise ConnectionLost(f"the peer announced a frame of {length} bytes; at most {limit} are taken")
    return int(length)


def _handshake(token: bytes, *, listener: bool) -> Generator[bytes, bytes, None]:
    """The handshake as a generator: yields what to send; is sent what came.

    Each side yields its greeting, gets the other's, yields its proof, gets the other's.
    """
    nonce = secrets.token_bytes(_NONCE_BYTES)
    theirs = yield _MAGIC + struct.pack("<H", PROTOCOL_VERSION) + nonce
    if theirs[: len(_MAGIC)] != _MAGIC or len(theirs) != len(_MAGIC) + 2 + _NONCE_BYTES:
        raise ConnectionLost("the peer does not speak this protocol")
    (version,) = struct.unpack_from("<H", theirs, len(_MAGIC))
    if version != PROTOCOL_VERSION:
        raise ConnectionLost(
            f"the peer speaks protocol version {version}, this process {PROTOCOL_VERSION}; install the same spo on both"
        )
    their_nonce = theirs[-_NONCE_BYTES:]
    nonces = nonce + their_nonce if listener else their_nonce + nonce

    def proof(by_listener: bool) -> bytes:
        return hmac.digest(token, (b"listener" if by_listener else b"dialer") + nonces, hashlib.sha256)

    their_proof = yield proof(listener)
    if not hmac.compare_digest(their_proof, proof(not listener)):
        raise ConnectionLost("the peer does not know this run's token; give it the run directory's `token` file")


class Connection(Generic[In]):
    """A blocking connection, for the trainer ranks. Not for use by several threads at once."""

    def __init__(self, address: str, token: bytes, accepts: Any, *, timeout_s: float = 30.0) -> None:
        """Connects and shakes hands.

        Args:
            address: `host:port` of the orchestrator.
            token: The run's token.
            accepts: The union of message types that may come in.
            timeout_s: How long connecting and the handshake may take.

        Raises:
            ConnectionLost: No answer, or not a peer of this run.
        """
        self._decoder: msgspec.msgpack.Decoder[In] = msgspec.msgpack.Decoder(accepts)
        self._address = address
        try:
            self._socket = socket.create_connection(parse_address(address), timeout=timeout_s)
        except OSError as error:
            raise ConnectionLost(f"cannot reach the orchestrator at {address}: {error}") from error
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._shake_hands(token)
        except OSError as error:
            self.close()
            raise ConnectionLost(f"no handshake with the orchestrator at {address}: {error}") from error
        except ConnectionLost:
            self.close()
            raise

    def _shake_hands(self, token: bytes) -> None:
        steps = _handshake(token, listener=False)
        outgoing = next(steps)
        deadline = time.monotonic() + HANDSHAKE_TIMEOUT_S
        try:
            while True:
                self._socket.sendall(frame(outgoing))
                outgoing = steps.send(self._read_frame(deadline, MAX_HANDSHAKE_BYTES))
        except StopIteration:
            return

    def send(self, message: msgspec.Struct, *, timeout_s: float = 60.0) -> None:
        """Sends a message.

        Raises:
            ConnectionLost: The orchestrator is gone, or takes nothing for `timeout_s`.
        """
        try:
            self._socket.settimeout(timeout_s)
            self._socket.sendall(frame(_encoder.encode(message)))
        except OSError as error:
            raise ConnectionLost(f"lost the orchestrator at {self._address} while sending: {error}") from error

    def receive(self, *, timeout_s: float) -> In:
        """The next message.

        Raises:
            ConnectionLost: The orchestrator is gone, silent for `timeout_s`, or sends nonsense.
        """
        try:
            return self._decoder.decode(self._read_frame(time.monotonic() + timeout_s, MAX_FRAME_BYTES))
        except TimeoutError:
            raise ConnectionLost(f"the orchestrator at {self._address} was silent for {timeout_s:.0f} s") from None
        except OSError as error:
            raise ConnectionLost(f"lost the orchestrator at {self._address}: {error}") from error
        except msgspec.DecodeError as error:
            raise ConnectionLost(f"the orchestrator at {self._address} sent no known message: {error}") from error

    def _read_frame(self, deadline: float, limit: int) -> bytes:
        return bytes(self._read_exactly(_body_length(self._read_exactly(_LENGTH.size, deadline), limit), deadline))

    def _read_exactly(self, size: int, deadline: float) -> bytes:
        buffer = bytearray(size)
        view = memoryview(buffer)
        while view:
            self._socket.settimeout(max(deadline - time.monotonic(), 1e-3))
            count = self._socket.recv_into(view)
            if count == 0:
                raise ConnectionLost(f"the orchestrator at {self._address} closed the connection")
            view = view[count:]
        return bytes(buffer)

    def close(self) -> None:
        """Closes the connection; closing twice is fine."""
        self._socket.close()

    def __enter__(self) -> Connection[In]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncConnection(Generic[In]):
    """A trio connection. Any task may send; one task receives."""

    def __init__(self, stream: trio.SocketStream, accepts: Any) -> None:
        """Wraps a stream whose handshake is done; use `connect` or `accept`."""
        self._stream = stream
        self._decoder: msgspec.msgpack.Decoder[In] = msgspec.msgpack.Decoder(accepts)
        self._sending = trio.Lock()

    @classmethod
    async def connect(cls, address: str, token: bytes, accepts: Any) -> AsyncConnection[In]:
        """Dials `host:port` and shakes hands.

        Raises:
            ConnectionLost: No answer, or not a peer of this run.
        """
        host, port = parse_address(address)
        try:
            with trio.fail_after(HANDSHAKE_TIMEOUT_S):
                stream = await trio.open_tcp_stream(host, port)
        except (OSError, trio.TooSlowError) as error:
            raise ConnectionLost(f"cannot reach {address}: {error or 'no answer'}") from error
        return await cls._shake_hands(stream, token, accepts, listener=False)

    @classmethod
    async def accept(cls, stream: trio.SocketStream, token: bytes, accepts: Any) -> AsyncConnection[In]:
        """Shakes hands with a peer that has dialled.

        Raises:
            ConnectionLost: It is not a peer of this run.
        """
        return await cls._shake_hands(stream, token, accepts, listener=True)

    @classmethod
    async def _shake_hands(
        cls, stream: trio.SocketStream, token: bytes, accepts: Any, *, listener: bool
    ) -> AsyncConnection[In]:
        connection = cls(stream, accepts)
        steps = _handshake(token, listener=listener)
        outgoing = next(steps)
        try:
            with trio.fail_after(HANDSHAKE_TIMEOUT_S):
                while True:
                    await connection._write(frame(outgoing))
                    outgoing = steps.send(await connection._read_frame(MAX_HANDSHAKE_BYTES))
        except StopIteration:
            return connection
        except trio.TooSlowError:
            await trio.aclose_forcefully(stream)
            raise ConnectionLost(f"the peer did not shake hands within {HANDSHAKE_TIMEOUT_S:.0f} s") from None
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise

    async def send(self, message: msgspec.Struct) -> None:
        """Sends a message; waits while the peer is slow to take it.

        Raises:
            ConnectionLost: The peer is gone.
        """
        await self._write(frame(_encoder.encode(message)))

    async def receive(self) -> In:
        """The next message.

        Raises:
            ConnectionLost: The peer is gone or sends nonsense.
        """
        try:
            return self._decoder.decode(await self._read_frame(MAX_FRAME_BYTES))
        except msgspec.DecodeError as error:
            raise ConnectionLost(f"the peer sent no known message: {error}") from error

    async def _write(self, data: bytes) -> None:
        async with self._sending:
            try:
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise ConnectionLost(f"the peer is gone: {error}") from error
            except trio.Cancelled:
                # Half a frame may be out: the connection is of no more use.
                await trio.aclose_forcefully(self._stream)
                raise

    async def _read_frame(self, limit: int) -> bytes:
        return await self._read_exactly(_body_length(await self._read_exactly(_LENGTH.size), limit))

    async def _read_exactly(self, size: int) -> bytes:
        buffer = bytearray()
        while len(buffer) < size:
            try:
                part = await self._stream.receive_some(min(size - len(buffer), 1 << 20))
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise ConnectionLost(f"the peer is gone: {error}") from error
            if not part:
                raise ConnectionLost("the peer closed the connection")
            buffer += part
        return bytes(buffer)

    async def aclose(self) -> None:
        """Closes the connection; closing twice is fine."""
        await trio.aclose_forcefully(self._stream)
