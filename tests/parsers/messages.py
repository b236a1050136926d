"""Bytes for the parsers: requests from a grammar, heads of real clients with errors in them, and random bytes."""

from __future__ import annotations

from itertools import pairwise
from random import Random

from humphrey_trio.http import Limits

CURL = b"GET /a?b=c HTTP/1.1\r\nHost: localhost:8080\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n"
CURL_POST = (
    b"POST /form HTTP/1.1\r\nHost: localhost:8080\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n"
    b"Content-Length: 7\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\na=1&b=2"
)
CURL_LARGE = (
    b"PUT /file HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n"
    b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
)
CHROME = (
    b"GET /index.html HTTP/1.1\r\nHost: www.example.com\r\nConnection: keep-alive\r\nCache-Control: max-age=0\r\n"
    b'sec-ch-ua: "Chromium";v="128", "Not;A=Brand";v="24"\r\nsec-ch-ua-mobile: ?0\r\n'
    b'sec-ch-ua-platform: "Linux"\r\nUpgrade-Insecure-Requests: 1\r\n'
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/128.0.0.0\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8\r\n"
    b"Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-GB,en;q=0.9\r\n"
    b"Cookie: session=0123456789abcdef; theme=dark\r\n\r\n"
)
FIREFOX = (
    b"GET /chat?room=1 HTTP/1.1\r\nHost: example.com\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\nAccept: */*\r\n"
    b"Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nSec-WebSocket-Version: 13\r\n"
    b"Origin: https://example.com\r\nSec-WebSocket-Extensions: permessage-deflate\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nConnection: keep-alive, Upgrade\r\nPragma: no-cache\r\n"
    b"Cache-Control: no-cache\r\nUpgrade: websocket\r\n\r\n\x81\x80abcd"
)
WEBSOCKETS = (
    b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
    b"User-Agent: Python/3.11 websockets/15.0\r\n\r\n"
)
HTTPX = (
    b"POST /api HTTP/1.1\r\nhost: localhost\r\naccept: */*\r\naccept-encoding: gzip, deflate\r\n"
    b"connection: keep-alive\r\nuser-agent: python-httpx/0.28.1\r\ncontent-length: 2\r\n"
    b"content-type: application/json\r\n\r\n{}"
)
REAL = (CURL, CURL_POST, CURL_LARGE, CHROME, FIREFOX, WEBSOCKETS, HTTPX)

# The first half of most of these is repeated, so that most requests have few errors.
_METHODS = (b"GET", b"POST", b"HEAD", b"X-Y") * 8 + (
    *(b"OPTIONS", b"CONNECT", b"get", b"", b"G T", b"G\xe9", b"G("),
)
_TARGETS = (b"/", b"/a/b.html", b"/?", b"/a?b=c&d", b"/a?b?c", b"//a", b"/%2F") * 8 + (
    *(
        b"*",
        b"",
        b"a",
        b"/a#b",
        b"/a?b#c",
        b"http://a/b",
        b"HTTPS://a?b",
        b"http:///",
        b"/\xe9",
        b"/a b",
        b"/\x7f",
        b"/\x00",
        b"/[a]{b}|^`<>\"'",
    ),
)
_VERSIONS = (b"HTTP/1.1",) * 80 + (
    *(
        b"HTTP/1.0",
        b"HTTP/2.0",
        b"HTTP/1.2",
        b"HTTP/1.10",
        b"HTTP/1,1",
        b"http/1.1",
        b"HTTP/1.1 ",
        b"",
        b"HTTP/11",
    ),
)
_NAMES = (b"Connection", b"Upgrade", b"Content-Length", b"Accept", b"Cookie", b"X-Host", b"Hos", b"Host-") * 8 + (
    *(b"Host", b"Transfer-Encoding", b"Expect", b"Content_Length", b"Content-Length2", b"Connection-"),
    *(b"!#$%&'*+-.^_`|~09", b"X Y", b"", b"X\xe9", b"X\x00", b" X", b"\tX"),
)
_VALUES = (
    *(
        b"a",
        b"localhost:80",
        b"[::1]:80",
        b"a b",
        b"me@a",
        b"a/b",
        b"a:b",
        b"",
        b"A.example.COM",
        b"a,b",
        b"[a",
        b"]",
    ),
    *(
        b"close",
        b"keep-alive",
        b"Upgrade",
        b"keep-alive, Upgrade",
        b"CLOSE,",
        b"closed",
        b"close\xa0",
        b"websocket",
    ),
    *(
        b"WebSocket, h2c",
        b"websocket/13",
        b"0",
        b"5",
        b"005",
        b"+5",
        b"-1",
        b"5, 5",
        b"5,5",
        b"1_0",
        b"0x5",
        b"5 5",
    ),
    *(b"9" * 20, b"9" * 21, b"\xb2", b"chunked", b"Chunked", b"gzip", b"gzip, chunked", b"identity", b"chunked,"),
    *(
        b"100-continue",
        b"100-Continue, x",
        b"\xe9\xff\x80",
        b"a\tb",
        b"a\x00b",
        b"a\x0bb",
        b"a\x7fb",
        b"a\rb",
        b"a\nb",
    ),
    *(b"\x85", b"\x1c", b'"q"; a="\\""', b"x" * 60),
)
# The values of these fields must usually fit, or most requests would be refused.
_FITTING = {
    b"Connection": (b"keep-alive", b"Upgrade", b"keep-alive, Upgrade", b"close"),
    b"Upgrade": (b"websocket", b"h2c", b"h2c, WebSocket"),
    b"Content-Length": (b"0", b"5", b"05"),
    b"Host": (b"a", b"A.example.com:80", b"[::1]"),
}
_COLONS = (b": ",) * 40 + (b":", b":\t ", b" : ", b" ", b"::")
_LINE_ENDS = (b"\r\n",) * 30 + (b"\n", b"\r", b"\r\r\n", b" \r\n", b"\t\r\n", b"\r\n ", b"\r\n\t", b"\r\n\r\n")
_BODIES = (b"", b"", b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"\r\n", b"GET / HTTP/1.1\r\nHost: b\r\n\r\n")
_BYTES = b'\x00\t\n\r\r\n  !"#%,-./0159:;=?@AEGHTaehlnotx[]_{}\x7f\x80\x85\xa0\xe9\xff'


def message(random: Random) -> bytes:
    """Make one to three requests, some with errors, or random bytes."""
    kind = random.randrange(20)
    if kind == 0:
        return bytes(random.choices(_BYTES, k=random.randrange(60)))
    makers = (_from_grammar, _mutated, _mutated_grammar)
    return b"".join(random.choice(makers)(random) for _ in range(random.choice((1, 1, 1, 2, 3))))


def limits(random: Random, raw: bytes) -> Limits:
    """Make limits: usually the default, else ones that the first head just exceeds or does not exceed."""
    if random.randrange(4):
        return Limits()
    head = raw.find(b"\r\n\r\n") + 4
    return Limits(
        head=max(1, head + random.randrange(-1, 2)) if random.randrange(3) == 0 else 2**14,
        request_line=max(1, raw.find(b"\r\n") + random.randrange(-1, 2)) if random.randrange(3) == 0 else 2**13,
        headers=max(1, raw[:head].count(b"\r\n") - 2 + random.randrange(-1, 2))
        if random.randrange(3) == 0
        else 100,
    )


def reads(random: Random, raw: bytes) -> list[bytes]:
    """Split bytes into reads: one, one for each byte, or some."""
    kind = random.randrange(8)
    if kind == 0:
        return [raw[at : at + 1] for at in range(len(raw))]
    places = sorted(random.randrange(len(raw) + 1) for _ in range(random.randrange(4) if kind < 5 else 0))
    edges = [0, *places, len(raw)]
    return [raw[start:end] for start, end in pairwise(edges) if start < end]


def _from_grammar(random: Random) -> bytes:
    end = random.choice
    lines = [b" ".join((random.choice(_METHODS), random.choice(_TARGETS), random.choice(_VERSIONS)))]
    if random.randrange(8):
        lines.append(b"Host: a")
    lines += [_field(random) for _ in range(random.randrange(6))]
    head = b"".join(line + (end(_LINE_ENDS) if random.randrange(8) == 0 else b"\r\n") for line in lines)
    return (b"\r\n" if random.randrange(12) == 0 else b"") + head + b"\r\n" + random.choice(_BODIES)


def _field(random: Random) -> bytes:
    name = random.choice(_NAMES)
    value = random.choice(_FITTING.get(name, _VALUES) if random.randrange(6) else _VALUES)
    if random.randrange(4) == 0:
        name = name.lower() if random.randrange(2) else name.upper()
    return name + random.choice(_COLONS) + value + random.choice((b"",) * 6 + (b" ", b"\t ", b"  "))


def _mutated(random: Random) -> bytes:
    return _mutate(random, random.choice(REAL))


def _mutated_grammar(random: Random) -> bytes:
    return _mutate(random, _from_grammar(random))


def _mutate(random: Random, raw: bytes) -> bytes:
    for _ in range(random.choice((0, 0, 1, 1, 2, 4))):
        start = random.randrange(len(raw) + 1)
        end = min(len(raw), start + random.choice((0, 1, 1, 2, 20)))
        raw = raw[:start] + random.choice(_EDITS)(random, raw[start:end]) + raw[end:]
    return raw


def _insert(random: Random, piece: bytes) -> bytes:
    return random.choice((*_NAMES, *_VALUES, *_LINE_ENDS[-8:], *_COLONS)) + piece


def _replace(random: Random, piece: bytes) -> bytes:
    return bytes(random.choices(_BYTES, k=len(piece)))


def _add_field(random: Random, piece: bytes) -> bytes:
    return b"\r\n" + _field(random) + b"\r\n" + piece


_EDITS = (_insert, _replace, _add_field, lambda _, piece: b"", lambda _, piece: piece + piece)
