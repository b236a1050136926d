"""permessage-deflate: its settings, and the negotiation of its parameters."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from humphrey_trio._websocket._deflate_settings import Deflate
from humphrey_trio._websocket._protocol._deflate import negotiate, parse_offers
from humphrey_trio.websocket import HandshakeError
from tests.support.deflate import C_BITS, FORGETFUL, NO_C, NO_S, S_BITS, WIDE, agree


@pytest.mark.parametrize("name", ["server_max_window_bits", "client_max_window_bits"])
@pytest.mark.parametrize("bits", [8, 16])
def test_window_bits_are_checked(name: str, bits: int) -> None:
    """Window bits that zlib does not support are refused, and the error says why."""
    with pytest.raises(ValueError, match=rf"{name}=\.\.\.\) must be from 9 to 15"):
        Deflate(**{name: bits})


@pytest.mark.parametrize("bad", [{"memory_level": 0}, {"memory_level": 10}, {"level": 0}, {"level": 10}])
def test_levels_are_checked(bad: dict[str, int]) -> None:
    """A level out of the range of zlib is refused."""
    with pytest.raises(ValueError, match="must be from 1 to 9"):
        Deflate(**bad)


def test_min_size_is_checked() -> None:
    """``min_size`` may be 0 and is passed on; a negative one is refused."""
    assert agree(Deflate(min_size=0))[1].min_size == 0
    assert agree(Deflate(min_size=1000))[1].min_size == 1000
    with pytest.raises(ValueError, match="min_size"):
        Deflate(min_size=-1)


#: Settings, the parameters of an offer, and those of its answer.
ANSWERS = [
    (Deflate(), f"; {C_BITS}", f"; {S_BITS}=12; {C_BITS}=12"),
    (Deflate(), f"; {C_BITS}=15", f"; {S_BITS}=12; {C_BITS}=12"),
    (Deflate(), f"; {C_BITS}=10", f"; {S_BITS}=12; {C_BITS}=10"),
    (Deflate(), f"; {C_BITS}=8", f"; {S_BITS}=12; {C_BITS}=8"),
    (Deflate(), f"; {C_BITS}; {S_BITS}=15", f"; {S_BITS}=12; {C_BITS}=12"),
    (Deflate(), f"; {C_BITS}; {S_BITS}=9", f"; {S_BITS}=9; {C_BITS}=12"),
    (Deflate(), f"; {C_BITS}; {NO_S}", f"; {NO_S}; {S_BITS}=12; {C_BITS}=12"),
    (Deflate(), f"; {C_BITS}; {NO_C}", f"; {NO_C}; {S_BITS}=12; {C_BITS}=12"),
    # A client that cannot be limited is asked to forget, so that its big window does not stay.
    (Deflate(), "", f"; {NO_C}; {S_BITS}=12"),
    (Deflate(client_max_window_bits=15), "", f"; {S_BITS}=12"),
    (FORGETFUL, f"; {C_BITS}", f"; {NO_S}; {NO_C}; {S_BITS}=12; {C_BITS}=12"),
    (WIDE, "", ""),
    (WIDE, f"; {C_BITS}", f"; {C_BITS}=15"),
    (WIDE, f"; {S_BITS}=15", f"; {S_BITS}=15"),
    (WIDE, f"; {NO_S}; {NO_C}", f"; {NO_S}; {NO_C}"),
    # The same said otherwise.
    (WIDE, f' ;{S_BITS} =\t"10"', f"; {S_BITS}=10"),
    (WIDE, f'; {S_BITS}="1\\0" ', f"; {S_BITS}=10"),
]


@pytest.mark.parametrize(("settings", "offer", "answer"), ANSWERS)
def test_accepted_offers(settings: Deflate, offer: str, answer: str) -> None:
    """An offer is accepted with parameters of the settings, and with none that the client did not allow."""
    assert agree(settings, "permessage-deflate" + offer)[0] == "permessage-deflate" + answer


DECLINED = [
    f"{S_BITS}=8",  # valid, but nothing that zlib could keep to
    *(f"{S_BITS}{value}" for value in ("", "=7", "=16", "=09", "=0", "=-9", "=+9", "=1e1", '="8"')),
    *(f"{C_BITS}{value}" for value in ("=7", "=16", "=010", "=x", '="7"')),
    *(f"{name}{value}" for name in (NO_S, NO_C) for value in ("=1", "=true", '="x"')),
    *(f"{twice}; {twice}" for twice in (NO_S, NO_C, C_BITS, f"{S_BITS}=10")),
    f"{C_BITS}; {C_BITS}=10",
    "x",
    "x=1",
    "Server_No_Context_Takeover",
]


@pytest.mark.parametrize("parameters", DECLINED)
def test_declined_offers(parameters: str) -> None:
    """An offer with an unknown, repeated or invalid parameter is declined, and the next one is considered."""
    offer = f"permessage-deflate; {parameters}"

    assert negotiate(Deflate(), parse_offers([offer])) is None
    assert agree(WIDE, f"{offer}, permessage-deflate; {NO_S}")[0] == f"permessage-deflate; {NO_S}"


@pytest.mark.parametrize(
    "lines",
    [
        [f"permessage-deflate; {NO_C}, permessage-deflate; {NO_S}"],
        [f"permessage-deflate; {NO_C}", f"permessage-deflate; {NO_S}"],
        [f'x-webkit-deflate-frame; a; b="c", permessage-deflate; {NO_C}', "permessage-deflate"],
        [f",, permessage-deflate;{NO_C},", "", "permessage-deflate"],
    ],
)
def test_first_acceptable_offer(lines: list[str]) -> None:
    """The first acceptable offer in all header lines is accepted; unknown extensions are ignored."""
    assert agree(WIDE, *lines)[0] == f"permessage-deflate; {NO_C}"


@pytest.mark.parametrize("lines", [[], [""], ["bbf-usp-protocol"], ["permessage-bzip2; x=1", "foo"]])
def test_no_offer(lines: list[str]) -> None:
    """Without an offer of permessage-deflate there is no agreement, and no error."""
    assert negotiate(Deflate(), parse_offers(lines)) is None


@pytest.mark.parametrize(
    "malformed",
    [
        "permessage-deflate;",
        "permessage-deflate; ;",
        "permessage-deflate; =1",
        "permessage-deflate; x=",
        "permessage-deflate; x y",
        "permessage deflate",
        "; permessage-deflate",
        'permessage-deflate; x="',
        'permessage-deflate; x=""',
        'permessage-deflate; x="a b"',
        'permessage-deflate; x="a,b"',
        'permessage-deflate; x="a"b',
        "permessage-deflate; x=\xe9",
        "permessage-deflate/1",
        "permessage-deflate, (",
    ],
)
def test_malformed_offers(malformed: str) -> None:
    """A malformed list of extensions refuses the handshake with 400, wherever the error is."""
    with pytest.raises(HandshakeError, match="malformed") as caught:
        parse_offers(["permessage-deflate", malformed])

    assert caught.value.status == 400


@pytest.mark.parametrize(
    "evil", [" " * 16000 + "(", "a;" + "b;" * 8000, 'a;b="' + "\\c" * 8000, "," * 16000 + "("]
)
def test_long_malformed_offers(evil: str) -> None:
    """A long malformed header field is refused in linear time; quadratic time would exceed the time limit."""
    for _ in range(20):
        with pytest.raises(HandshakeError):
            parse_offers([evil])


@given(st.text(alphabet='ab=;, "\\\t(', max_size=30))
def test_any_extensions_field(value: str) -> None:
    """Any field value is parsed or refused with a HandshakeError."""
    try:
        offers = parse_offers([value])
    except HandshakeError:
        return
    assert all(re.fullmatch("[ab]+", name) for name, _ in offers)


@pytest.mark.parametrize("settings", [Deflate(), FORGETFUL, WIDE])
@pytest.mark.parametrize("server_bits", [None, 9, 15])
@pytest.mark.parametrize("client_bits", [None, True, 9])
@pytest.mark.parametrize("no_takeover", [False, True])
def test_websockets_accepts_the_answers(
    settings: Deflate, server_bits: int | None, client_bits: int | bool | None, no_takeover: bool
) -> None:
    """The websockets package accepts the answer to each of its offers."""
    factory = ClientPerMessageDeflateFactory(no_takeover, no_takeover, server_bits, client_bits)
    offer = "; ".join(["permessage-deflate", *(f"{k}={v}" if v else k for k, v in factory.get_request_params())])

    ((_, parameters),) = parse_offers([agree(settings, offer)[0]])

    factory.process_response_params(parameters, [])
