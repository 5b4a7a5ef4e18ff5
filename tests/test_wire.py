"""The wire: frames, the handshake, and peers that are none."""

import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from spo.errors import ConfigError, ConnectionLost
from spo.types import BatchRequest, Heartbeat, Pending, ToOrchestrator, ToTrainer
from spo.wire import MAX_FRAME_BYTES, AsyncConnection, Connection, new_token, parse_address, read_token

TOKEN = bytes(range(32))


async def _serve_once(listener: trio.SocketListener, token: bytes) -> AsyncConnection[ToOrchestrator]:
    return await AsyncConnection.accept(await listener.accept(), token, ToOrchestrator)


async def _listen() -> tuple[trio.SocketListener, str]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    return listener, f"127.0.0.1:{listener.socket.getsockname()[1]}"


def test_messages_go_both_ways_between_a_blocking_and_a_trio_end() -> None:
    async def main() -> None:
        listener, address = await _listen()
        received: list[object] = []

        def trainer() -> None:
            with Connection[ToTrainer](address, TOKEN, ToTrainer) as connection:
                connection.send(BatchRequest(step=1))
                received.append(connection.receive(timeout_s=10))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, trainer)
            connection = await _serve_once(listener, TOKEN)
            assert await connection.receive() == BatchRequest(step=1)
            await connection.send(Pending(reason="sampling"))
        assert received == [Pending(reason="sampling")]
        await connection.aclose()
        await listener.aclose()

    trio.run(main)


@pytest.mark.parametrize("liar", ["dialer", "listener"])
def test_a_peer_with_another_token_is_refused_by_both_sides(liar: str) -> None:
    async def main() -> None:
        listener, address = await _listen()
        other = bytes(32)
        refusals: list[str] = []

        async def dial() -> None:
            try:
                await AsyncConnection.connect(address, other if liar == "dialer" else TOKEN, ToTrainer)
            except ConnectionLost as error:
                refusals.append(str(error))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial)
            try:
                await _serve_once(listener, other if liar == "listener" else TOKEN)
            except ConnectionLost as error:
                refusals.append(str(error))
        assert len(refusals) == 2
        assert any("token" in text for text in refusals)
        await listener.aclose()

    trio.run(main)


def test_a_proof_sent_back_to_its_maker_is_refused() -> None:
    """A peer without the token that mirrors every frame must not get in."""

    async def main() -> None:
        listener, address = await _listen()

        async def mirror() -> None:
            stream = await trio.open_tcp_stream(*parse_address(address))
            async with stream:
                while data := await stream.receive_some(4096):
                    await stream.send_all(data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(mirror)
            with pytest.raises(ConnectionLost, match="token"):
                await _serve_once(listener, TOKEN)
        await listener.aclose()

    trio.run(main)


@pytest.fixture
def rude_server() -> Iterator[tuple[str, list[bytes]]]:
    """Answers any client with the bytes in the list, then closes."""
    server = socket.create_server(("127.0.0.1", 0))
    replies: list[bytes] = []

    def run() -> None:
        client, _ = server.accept()
        with client:
            for reply in replies:
                client.sendall(reply)
            client.recv(4096)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.getsockname()[1]}", replies
    thread.join(5)
    server.close()


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (b"", "closed|reset"),
        (struct.pack("<I", 5) + b"hello", "does not speak"),
        (struct.pack("<I", MAX_FRAME_BYTES), "at most"),
        (struct.pack("<I", 26) + b"spo-wire" + struct.pack("<H", 9999) + bytes(16), "version 9999"),
    ],
)
def test_a_server_that_is_no_orchestrator_is_told_apart(
    rude_server: tuple[str, list[bytes]], reply: bytes, words: str
) -> None:
    address, replies = rude_server
    replies.append(reply)
    with pytest.raises(ConnectionLost, match=words):
        Connection[ToTrainer](address, TOKEN, ToTrainer, timeout_s=5)


def test_a_message_of_the_wrong_kind_ends_the_connection() -> None:
    async def main() -> None:
        listener, address = await _listen()
        async with trio.open_nursery() as nursery:

            async def dial() -> None:
                connection = await AsyncConnection.connect(address, TOKEN, ToTrainer)
                await connection.send(Pending(reason="only orchestrators say so"))
                await connection.aclose()

            nursery.start_soon(dial)
            connection = await _serve_once(listener, TOKEN)
            with pytest.raises(ConnectionLost, match="no known message"):
                await connection.receive()
        await connection.aclose()
        await listener.aclose()

    trio.run(main)


def test_sends_of_several_tasks_do_not_mix() -> None:
    async def main() -> None:
        listener, address = await _listen()
        async with trio.open_nursery() as nursery:

            async def dial() -> None:
                connection = await AsyncConnection.connect(address, TOKEN, ToTrainer)
                async with trio.open_nursery() as senders:
                    for i in range(20):
                        senders.start_soon(
                            connection.send, Heartbeat(engine_steps=i, policy_version=0, num_tokens=2**60)
                        )
                await connection.aclose()

            nursery.start_soon(dial)
            connection = await _serve_once(listener, TOKEN)
            steps = {(await connection.receive()).engine_steps for _ in range(20)}  # type: ignore[union-attr]
            assert steps == set(range(20))
        await connection.aclose()
        await listener.aclose()

    trio.run(main)


def test_the_token_file_is_for_its_owner_only(tmp_path: Path) -> None:
    token = new_token(tmp_path)
    assert read_token(tmp_path) == token
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
    assert new_token(tmp_path) != token


@pytest.mark.parametrize("address", ["localhost", ":80", "host:", "host:port", "host:99999"])
def test_a_malformed_address_is_refused_with_the_form_to_use(address: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        parse_address(address)
