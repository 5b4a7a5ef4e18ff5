"""The listener: lets peers prove the run's token and hands each to whom its first message is for."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Awaitable, Callable

import trio

from spo.config import NetworkConfig
from spo.errors import ConfigError, ConnectionLost
from spo.types import ToOrchestrator, TrainerHello, WorkerHello
from spo.wire import HANDSHAKE_TIMEOUT_S, AsyncConnection

log = logging.getLogger(__name__)

TrainerHandler = Callable[[AsyncConnection[ToOrchestrator], TrainerHello], Awaitable[None]]
WorkerHandler = Callable[[AsyncConnection[ToOrchestrator], WorkerHello], Awaitable[None]]


async def listen(network: NetworkConfig) -> trio.SocketListener:
    """Binds `network.host` and `network.port`.

    Raises:
        ConfigError: The port is taken, or the host is not one of this machine.
    """
    try:
        listeners = await trio.open_tcp_listeners(network.port, host=network.host)
    except socket.gaierror as error:
        raise ConfigError(f"network.host: {network.host!r} cannot be resolved ({error.strerror})") from None
    except OSError as error:
        if errno.EADDRINUSE in _errnos(error):
            raise ConfigError(
                f"network.port: {network.port} on {network.host} is in use; choose another, or 0 for a free one"
            ) from None
        raise ConfigError(f"network.host: cannot listen on {network.host}:{network.port} ({error})") from None
    for spare in listeners[1:]:
        await spare.aclose()
    return listeners[0]


def address_of(listener: trio.SocketListener) -> str:
    """Its `host:port`."""
    host, port = listener.socket.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Server:
    """Serves connections; a session that fails does not end the others, `on_failure` decides what to do.

    Args:
        token: The run's token.
        on_trainer: Serves a trainer rank's session.
        on_worker: Serves a worker's session.
        on_failure: Told of what a session raises, besides `ConnectionLost`.
    """

    def __init__(
        self,
        token: bytes,
        on_trainer: TrainerHandler,
        on_worker: WorkerHandler,
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._token = token
        self._on_trainer = on_trainer
        self._on_worker = on_worker
        self._on_failure = on_failure

    async def run(self, listener: trio.SocketListener) -> None:
        """Accepts connections until cancelled."""
        async with trio.open_nursery() as nursery, listener:
            while True:
                nursery.start_soon(self._serve, await listener.accept())

    async def _serve(self, stream: trio.SocketStream) -> None:
        peer = "a peer"
        try:
            peer = str(stream.socket.getpeername()[0])
            connection = await AsyncConnection[ToOrchestrator].accept(stream, self._token, ToOrchestrator)
        except (ConnectionLost, OSError) as error:
            log.warning("connection from %s refused: %s", peer, error)
            return
        try:
            await self._talk(connection)
        except* ConnectionLost as group:
            log.warning("connection from %s ended: %s", peer, group.exceptions[0])
        except* Exception as failures:
            self._on_failure(failures)
        finally:
            with trio.CancelScope(shield=True):
                await connection.aclose()

    async def _talk(self, connection: AsyncConnection[ToOrchestrator]) -> None:
        with trio.move_on_after(HANDSHAKE_TIMEOUT_S) as patience:
            hello = await connection.receive()
        if patience.cancelled_caught:
            raise ConnectionLost("it did not say what it is")
        match hello:
            case TrainerHello():
                await self._on_trainer(connection, hello)
            case WorkerHello():
                await self._on_worker(connection, hello)
            case _:
                raise ConnectionLost(f"it began with {type(hello).__name__}")


def _errnos(error: OSError) -> set[int | None]:
    """The error's number and those of its causes: trio wraps what several addresses failed with."""
    causes = error.__cause__.exceptions if isinstance(error.__cause__, BaseExceptionGroup) else [error.__cause__]
    return {error.errno, *(cause.errno for cause in causes if isinstance(cause, OSError))}
