"""The HTTP/1.1 codec of a client, for tests: requests to bytes, and bytes to responses."""

from __future__ import annotations

import h11

from .._http._headers import Headers

_SWITCHING = 101


class ClientCodec:
    """Encode requests, and parse responses, for one connection of a test client."""

    def __init__(self) -> None:
        self._h11 = h11.Connection(h11.CLIENT)
        self._head: h11.Response | h11.InformationalResponse | None = None
        self._content: list[bytes] = []
        self._ended = False

    def request(self, method: str, target: str, headers: Headers, content: bytes) -> bytes:
        """Encode a request. The response to the previous request must have been parsed."""
        if self._h11.our_state is h11.DONE:
            self._h11.start_next_cycle()
        parts = [self._h11.send(h11.Request(method=method, target=target, headers=list(headers)))]
        if content:
            parts.append(self._h11.send(h11.Data(data=content)))
        parts.append(self._h11.send(h11.EndOfMessage()))
        return b"".join(parts)

    def receive(self, data: bytes) -> None:
        """Add bytes from the server; empty bytes at its end of file."""
        self._ended = not data
        self._h11.receive_data(data)

    def next_response(self) -> tuple[int, Headers, bytes] | None:
        """Parse the next response.

        Returns:
            Status, header fields and body, or None if the response is incomplete.

        Raises:
            ConnectionError: the server has closed the connection, or has sent invalid HTTP.
        """
        try:
            return self._parse()
        except h11.RemoteProtocolError as exc:
            if self._ended and self._head is None:
                raise ConnectionError("the server has closed the connection") from None
            raise ConnectionError(f"the server has sent an incomplete or invalid response: {exc}") from exc

    def _parse(self) -> tuple[int, Headers, bytes] | None:
        while (event := self._h11.next_event()) is not h11.NEED_DATA:
            if isinstance(event, h11.Data):
                self._content.append(bytes(event.data))
            elif isinstance(event, (h11.Response, h11.InformationalResponse)):
                self._head = event
                if event.status_code == _SWITCHING:
                    return self._whole()
            elif isinstance(event, h11.EndOfMessage):
                return self._whole()
            else:
                raise ConnectionError("the server has closed the connection")
        return None

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent on this connection."""
        return self._h11.our_state is not h11.MUST_CLOSE and self._h11.their_state is not h11.CLOSED

    @property
    def rest(self) -> bytes:
        """The bytes after a 101."""
        return self._h11.trailing_data[0]

    def _whole(self) -> tuple[int, Headers, bytes]:
        assert self._head is not None
        head, content = self._head, b"".join(self._content)
        self._head, self._content = None, []
        fields = [(name.decode("ascii"), value.decode("latin-1")) for name, value in head.headers.raw_items()]
        return head.status_code, Headers.from_checked(tuple(fields)), content
