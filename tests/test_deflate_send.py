"""permessage-deflate: compression of what the server sends, and memory of idle connections."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from humphrey_trio._websocket._deflate_settings import Deflate
from humphrey_trio._websocket._protocol._decoder import Decoder
from humphrey_trio._websocket._protocol._deflate import PerMessageDeflate, compress_apart
from humphrey_trio._websocket._protocol._encoder import encode_message
from humphrey_trio.websocket import Message
from tests.support.deflate import (
    FORGETFUL,
    NO_S,
    OFFER,
    S_BITS,
    WIDE,
    compressed_frame,
    contents,
    encode_compressed,
    meet,
)
from tests.support.reads import events_of


@pytest.mark.parametrize("settings", [Deflate(), FORGETFUL, WIDE, Deflate(level=1, memory_level=9)])
def test_compressed_messages_can_be_read(settings: Deflate) -> None:
    """A client decompresses messages of all kinds and sizes."""
    client, _, deflate = meet(settings)
    sizes = [100, 1000, 100_000, 1]

    for data in ("text", b"bytes", "", "", b"", "text", *(random.Random(n).randbytes(n) for n in sizes), "text"):
        assert client.read(encode_compressed(data, deflate.compress)) == Message(data)


def test_context_takeover_reduces_the_size() -> None:
    """With context takeover a repeated message is much smaller; without it, it is not."""
    message = random.Random(1).randbytes(500)
    _, _, remembers = meet()
    _, _, forgets = meet(FORGETFUL)

    assert len(remembers.compress(message)) > 500 > 10 * len(remembers.compress(message))
    assert len(forgets.compress(message)) == len(forgets.compress(message)) > 500


def test_uncompressed_messages_keep_the_window() -> None:
    """Uncompressed messages in between change neither window."""
    client, _, deflate = meet()

    for _ in range(3):
        assert client.read(encode_compressed("window window", deflate.compress)) == Message("window window")
        assert client.read(encode_message("plain")) == Message("plain")


def test_shared_frame_needs_a_reset() -> None:
    """After a frame that was compressed for several clients, the compressor has to be reset."""
    history, apart = random.Random(1).randbytes(1000), random.Random(2).randbytes(1000)

    def read_again(*, resets: bool) -> Message:
        client, _, deflate = meet()
        client.read(encode_compressed(history, deflate.compress))
        client.read(encode_compressed(apart, lambda payload: compress_apart(payload, Deflate(), 12)))
        if resets:
            deflate.reset()
        return client.read(encode_compressed(history, deflate.compress))

    assert read_again(resets=True) == Message(history)
    assert read_again(resets=False) != Message(history)


@settings(deadline=None)
@given(data=st.data())
def test_broadcasts_and_messages_in_any_order(data: st.DataObject) -> None:
    """Clients read any mix of messages and of broadcasts that are compressed once for several clients."""
    ours = Deflate(server_max_window_bits=11)
    peers = [
        meet(ours, offer)
        for offer in (OFFER, f"{OFFER}; {NO_S}", f"{OFFER}; {S_BITS}=9", f"{OFFER}; {S_BITS}=9; {NO_S}")
    ]
    for content in data.draw(st.lists(contents, max_size=12)):
        to = data.draw(st.sampled_from(["all", "one", "uncompressed"]))
        client, _, deflate = data.draw(st.sampled_from(peers))
        if to == "one":
            assert client.read(encode_compressed(content, deflate.compress)) == Message(content)
        elif to == "uncompressed":
            assert client.read(encode_message(content)) == Message(content)
        else:
            bits = data.draw(st.sampled_from([9, 11]))
            shared = encode_compressed(content, lambda payload, bits=bits: compress_apart(payload, ours, bits))
            for client, _, deflate in peers:
                if deflate.window_bits >= bits:
                    assert client.read(shared) == Message(content)
                    deflate.reset()


# ------------------------------------------------------------------------------------------------ memory

#: What a connection may take, in KiB, by its settings, its offer and what happened on it.
MEMORY = {
    "defaults": (Deflate(), OFFER, "conversation", 70),
    "a client that cannot be limited": (Deflate(), "permessage-deflate", "conversation", 70),
    "without context takeover": (FORGETFUL, OFFER, "conversation", 12),
    "broadcasts only": (Deflate(), OFFER, "broadcasts", 12),
    "nothing yet": (Deflate(), OFFER, "nothing", 12),
}


def resident() -> int:
    """The resident memory of this process in bytes. Memory that zlib allocates is not in Python's statistics."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def serve_many(name: str, count: int = 300) -> float:
    """The KiB that each of many idle connections uses after its messages."""
    settings, offer, happened, _ = MEMORY[name]
    chance = random.Random(name)
    texts = [json.dumps({str(i): chance.random() for i in range(300)}) for _ in range(3)]

    def serve_one() -> tuple[Decoder, PerMessageDeflate]:
        client, decoder, deflate = meet(settings, offer)
        for text in texts:
            if happened == "conversation":
                assert events_of(decoder, compressed_frame(client.compress(text.encode()))) == [Message(text)]
                assert client.read(encode_compressed(text, deflate.compress)) == Message(text)
            elif happened == "broadcasts":
                compress_apart(text.encode(), settings, deflate.window_bits)
                deflate.reset()
        return decoder, deflate

    connections = [serve_one() for _ in range(20)]
    before = resident()
    connections += [serve_one() for _ in range(count)]
    return (resident() - before) / count / 1024


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
@pytest.mark.parametrize("name", MEMORY)
def test_memory_of_an_idle_connection(name: str) -> None:
    """An idle connection uses less memory than documented, whatever was sent on it before."""
    script = f"from {__name__} import serve_many; print(serve_many({name!r}))"
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    done = subprocess.run([sys.executable, "-c", script], env=paths, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < MEMORY[name][-1]
