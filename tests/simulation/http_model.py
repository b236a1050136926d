"""The specification of HTTP, as checks of the journal of a run. See ``model``.

A response must be whole, or the client must see that it is not: the parser of the client decides which. What it
must contain follows from what the handler, the layers and the producer of the body did.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from math import inf

from humphrey_trio.http import HttpStatistics

from .exchanges import Exchange
from .http_bodies import whole_bodies_are_right
from .http_expected import (
    done,
    ends_silently,
    exchanges_of,
    goes_on,
    is_stopped,
    is_strict,
    may_close,
    refusals_of,
    statuses_for,
    was_ended,
)
from .http_handlers import MAX_BODY
from .journal import ClientLife, Journal
from .script import Script
from .times import BODY_SECONDS, LEAVE_SECONDS, SWEEP_SECONDS, WRITE_SECONDS

# ------------------------------------------------------------------------------------------- responses


def responses_are_in_order(script: Script, journal: Journal) -> Iterator[str]:
    """Each response belongs to its request, has the fields of the layers, and only final ones end a connection."""
    for _, exchange in exchanges_of(journal):
        yield from (f"{exchange.name}: {fault}" for fault in exchange.faults)
        if not exchange.status:
            continue
        if script.setup.layers and not _is_without_head(exchange):
            if exchange.fields.get("x-outer") != exchange.name and not _is_replaced(exchange):
                yield f"{exchange.name}: the outer layer's field is {exchange.fields.get('x-outer')!r}"
            if exchange.fields.get("x-inner", exchange.name) != exchange.name:
                yield f"{exchange.name}: the inner layer's field is {exchange.fields['x-inner']!r}"
            if not exchange.refused_with and "x-inner" not in exchange.fields and not _is_replaced(exchange):
                yield f"{exchange.name}: has no field of the inner layer"
        if exchange.ask.version == "1.0" and "transfer-encoding" in exchange.fields:
            yield f"{exchange.name}: a chunked response to HTTP/1.0"


def _is_without_head(exchange: Exchange) -> bool:
    """Whether the head of a request was malformed, or incomplete after ``Timeouts.header``."""
    return exchange.ask.route == "bad" or (exchange.status == 408 and not exchange.layers)


def _is_replaced(exchange: Exchange) -> bool:
    """Whether an error response is in place of a streamed one, which has passed the layers. It does not."""
    return bool(exchange.bodies) and exchange.status >= 400


def statuses_are_right(script: Script, journal: Journal) -> Iterator[str]:
    """The status is that of the handler, the layer or the error."""
    for life, exchange in exchanges_of(journal):
        if not exchange.status or exchange.status in statuses_for(script, exchange):
            continue
        if not life.misbehaves or exchange.status == 200:
            yield f"{exchange.name}: got {exchange.status} instead of {statuses_for(script, exchange)}"


def every_request_is_answered(script: Script, journal: Journal) -> Iterator[str]:
    """A client that stays gets every response, until one that says that it is the last."""
    for name, life in journal.clients.items():
        if not is_strict(script, journal, life):
            continue
        for exchange in life.exchanges:
            if not exchange.begun:
                break
            if not exchange.whole:
                if not _may_be_unanswered(journal, life, exchange):
                    yield f"{exchange.name}: its response {exchange.status or ''} is not whole"
                break
            if exchange.closes or exchange.is_late:
                if not may_close(script, journal, exchange):
                    yield f"{exchange.name}: its connection was closed without a reason"
                break
            if ends_silently(exchange):
                break
        works = any(goes_on(exchange) for exchange in life.exchanges)
        if life.misses_end and life.plan.stream != "closing" and not works:
            yield f"{name}: its connection did not end after the last response"


def _may_be_unanswered(journal: Journal, life: ClientLife, exchange: Exchange) -> bool:
    cancelled = exchange.ask.expect or any(piece.outcome == "cancelled" for piece in exchange.pieces)
    if life.plan.stream != "direct" and cancelled:
        return True  # a part of the piece, or of a 100, may have been sent
    if not exchange.works:
        # No handler gets a request that arrives after the drain has begun, except for the first one.
        return "drain" in journal.happened and not exchange.status
    if any(is_stopped(journal, work) and work.outcome == "cancelled" for work in exchange.works):
        return True
    if exchange.ask.length in ("more", "less"):
        return True
    if done(exchange.bodies) == "ok" and exchange.declared is not None:
        # The head may be missing as well: its send ends with the body.
        return sum(len(piece.text) for piece in exchange.pieces if piece.outcome == "ok") < exchange.declared
    return done(exchange.bodies) in ("failed", "error") and exchange.status in (0, 200)


# -------------------------------------------------------------------------------------------- handlers


def handlers_run_once(script: Script, journal: Journal) -> Iterator[str]:
    """A handler and a producer run at most once for a request, one after the other for a connection, and end."""
    for _, exchange in exchanges_of(journal):
        if len(exchange.handlers) > 1 or len(exchange.bodies) > 1 or exchange.layers > 1:
            yield f"{exchange.name}: {len(exchange.handlers)} handlers, {len(exchange.bodies)} bodies"
        if exchange.generators or any(work.outcome == "open" for work in exchange.works):
            yield f"{exchange.name}: a handler, producer or generator is left"
        if exchange.bodies and exchange.ask.method == "HEAD":
            yield f"{exchange.name}: the body of a HEAD response was produced"
        if exchange.handlers and exchange.refused_with and exchange.ask.layer != "after":
            yield f"{exchange.name}: its handler ran behind a layer that has answered"
        if script.setup.layers and exchange.handlers and not exchange.layers:
            yield f"{exchange.name}: its handler ran without its layers"
    for life in journal.clients.values():
        works = [work for exchange in life.exchanges for work in exchange.works]
        for before, after in itertools.pairwise(works):
            if after.began_at < before.ended_at:
                yield f"{life.plan.name}: two handlers of its connection ran at once, or in the wrong order"


def requests_arrive_whole(script: Script, journal: Journal) -> Iterator[str]:
    """A handler gets the body that was sent, and knows whether it is complete."""
    for life, exchange in exchanges_of(journal):
        content, read = exchange.content, bytes(exchange.read)
        if not content.startswith(read):
            yield f"{exchange.name}: its handler has read {read[:40]!r}, which was not sent"
        if exchange.read_to_end and (read != content or exchange.ask.framing == "malformed"):
            yield f"{exchange.name}: its handler has read {len(read)} of {len(content)} bytes as the whole body"
        if len(read) > MAX_BODY:
            yield f"{exchange.name}: its handler has read {len(read)} bytes, more than the limit"
        if exchange.handlers and exchange.ask.route in ("missing", "method", "bad"):
            yield f"{exchange.name}: a handler ran for it"
        if exchange.reading is not None and not _may_fail_reading(journal, life, exchange):
            yield f"{exchange.name}: reading failed with {exchange.reading}"


def bodies_are_waited_for(script: Script, journal: Journal) -> Iterator[str]:
    """A client that waits for a 100 gets it, and one that holds its body back for too long is not served."""
    for life, exchange in exchanges_of(journal):
        ask = exchange.ask
        if ask.early or ask.route == "stream" or not exchange.handlers:
            continue
        # A 100 is not for HTTP/1.0 (RFC 9110, section 10.1.1), nor for an empty body.
        expects = ask.version == "1.1" and exchange.content and is_strict(script, journal, life)
        delayed = any(goes_on(other) for other in life.exchanges)  # the request before was still at work
        if exchange.waited_in_vain and expects and not delayed:
            yield f"{exchange.name}: got no 100, and its body was read"
        waited = script.setup.max_connections is not None  # before it was accepted, perhaps
        if ask.then == "hold" and ask.seconds > BODY_SECONDS + SWEEP_SECONDS and not waited:
            yield f"{exchange.name}: was handled, though its body took {ask.seconds} s"


def _may_fail_reading(journal: Journal, life: ClientLife, exchange: Exchange) -> bool:
    if life.misbehaves or exchange.keeps_body:
        return True
    refusals = refusals_of(exchange)
    return exchange.reading in refusals


def only_clients_that_left_are_cancelled(script: Script, journal: Journal) -> Iterator[str]:
    """A handler is cancelled if its client has left, but not with FINISH, or at the end of the app."""
    for life, exchange in exchanges_of(journal):
        for work in exchange.works:
            if work.outcome != "cancelled" or is_stopped(journal, work) or was_ended(journal, exchange):
                continue
            is_closed = exchange.ask.answer == "generator" and work in exchange.bodies
            if is_closed and (life.misbehaves or exchange.ask.length):
                continue  # a generator is also closed when its pieces cannot be sent
            if exchange.ask.finish:
                yield f"{exchange.name}: was cancelled, in spite of FINISH"
            elif not life.misbehaves and life.ended_at > work.ended_at:
                # A client may leave at the end of the run, when it has its whole response.
                yield f"{exchange.name}: was cancelled, and its client has not left"


def handlers_of_clients_that_left_are_cancelled(script: Script, journal: Journal) -> Iterator[str]:
    """A handler that waits is cancelled soon after its client has left."""
    for life, exchange in exchanges_of(journal):
        if exchange.ask.finish or exchange.shielded or life.plan.stream != "direct" or life.left_at == inf:
            continue
        for work in exchange.works:
            late = work.ended_at - max(life.left_at, work.began_at)
            if late > LEAVE_SECONDS:
                yield f"{exchange.name}: went on for {late:.2f} s after its client had left"


def events_end_with_a_drain(script: Script, journal: Journal) -> Iterator[str]:
    """A stream of events ends when a drain begins."""
    drained = journal.happened.get("drain", inf)
    for life, exchange in exchanges_of(journal):
        if exchange.ask.answer != "events" or exchange.shielded or life.misbehaves:
            continue
        for work in exchange.bodies:
            if max(drained, work.began_at) + SWEEP_SECONDS < work.ended_at:
                yield f"{exchange.name}: its events went on after the drain"


def slow_clients_do_not_block(script: Script, journal: Journal) -> Iterator[str]:
    """No write waits longer than ``Timeouts.write`` for a client that accepts nothing."""
    for _, exchange in exchanges_of(journal):
        if exchange.ask.answer == "generator":  # its next piece waits for the previous one
            continue
        for piece in exchange.pieces:
            if piece.seconds > WRITE_SECONDS + SWEEP_SECONDS:
                yield f"{exchange.name}: a write took {piece.seconds:.2f} s"


def idle_connections_end_with_a_drain(script: Script, journal: Journal) -> Iterator[str]:
    """A connection without a request ends when a drain begins."""
    drained = journal.happened.get("drain", inf)
    for name, life in journal.clients.items():
        if life.plan.attempts or life.plan.stream == "closing" or not is_strict(script, journal, life):
            continue
        done_before = all(exchange.whole and exchange.answered_at < drained for exchange in life.exchanges)
        is_idle = done_before and not any(goes_on(exchange) for exchange in life.exchanges)
        if life.exchanges and is_idle and life.ended_at > drained + SWEEP_SECONDS:
            yield f"{name}: its idle connection ended {life.ended_at - drained:.2f} s after the drain"


# ------------------------------------------------------------------------------------------- the whole


def upgrades_pass_the_layers(script: Script, journal: Journal) -> Iterator[str]:
    """Every response to an upgrade has the field of the outer layer."""
    if script.setup.layers:
        for name, life in journal.clients.items():
            for status, fields in zip(life.statuses, life.upgrade_fields, strict=False):
                if "x-outer" not in fields:
                    yield f"{name}: its {status} has no field of the layer"


def failures_are_logged(script: Script, journal: Journal) -> Iterator[str]:
    """Each exception that a handler, a layer or a body raises is logged once."""
    logged = [record.exc_info[1] for record in journal.log if record.exc_info]
    for _, exchange in exchanges_of(journal):
        for error in exchange.raised:
            count = sum(_contains(found, error) for found in logged)
            # An exception at the moment of the cancellation of the app may be lost.
            swallowed = "http cancelled" in journal.happened or _is_swallowed(exchange)
            if count > 1 or (not count and not swallowed):
                yield f"{exchange.name}: {error!r} was logged {count} times"


def _contains(found: BaseException | None, error: BaseException) -> bool:
    if isinstance(found, BaseExceptionGroup):
        return any(_contains(each, error) for each in found.exceptions)
    return found is error


def _is_swallowed(exchange: Exchange) -> bool:
    """Whether an exception may have been replaced by another one, or by a cancellation of the script."""
    return any(work.outcome in ("cancelled", "lost") for work in exchange.works) or len(exchange.raised) > 1


def statistics_add_up(script: Script, journal: Journal) -> Iterator[str]:
    """At the end nothing is open, and the counters are those of the clients."""
    found = journal.http_statistics
    if found is None:
        return
    if found.connections or found.lingering or found.in_flight:
        yield f"at the end the HTTP app still has: {found}"
    lives = list(journal.clients.values())
    if "drain" not in journal.happened and all(_is_counted(script, journal, life) for life in lives):
        yield from _check_counters(found, lives)


def _is_counted(script: Script, journal: Journal, life: ClientLife) -> bool:
    """Whether a client knows what the server has counted."""
    finished = all(exchange.whole for exchange in life.exchanges if exchange.begun)
    if life.plan.attempts and not life.statuses:
        return False
    return finished and 0 not in life.statuses and is_strict(script, journal, life)


def _check_counters(found: HttpStatistics, lives: list[ClientLife]) -> Iterator[str]:
    exchanges = [exchange for life in lives for exchange in life.exchanges if exchange.begun]
    upgrades = [status for life in lives for status in life.statuses]
    classes = {f"{digit}xx": 0 for digit in range(1, 6)}
    for status in [*(exchange.status for exchange in exchanges), *upgrades]:
        classes[f"{status // 100}xx"] += 1
    if dict(found.responses) != classes:
        yield f"the clients got {classes}, the statistics have {dict(found.responses)}"
    requests = len(upgrades) + sum(exchange.ask.route != "bad" for exchange in exchanges)
    if found.requests != requests:
        yield f"the clients have sent {requests} requests, the statistics have {found.requests}"
    if upgrades or any(life.plan.stream != "direct" for life in lives):
        return  # a cancelled send over a foreign stream has sent an unknown number of bytes
    sent, received = sum(life.http_sent for life in lives), sum(life.http_received for life in lives)
    if found.bytes_sent != received:
        yield f"{received} bytes were received, the statistics have {found.bytes_sent}"
    # What is discarded at the end of a connection is not counted.
    if found.bytes_received > sent or (found.bytes_received < sent and not any(e.closes for e in exchanges)):
        yield f"{sent} bytes were sent, the statistics have {found.bytes_received}"


HTTP_CHECKS = (
    responses_are_in_order,
    statuses_are_right,
    whole_bodies_are_right,
    every_request_is_answered,
    handlers_run_once,
    requests_arrive_whole,
    bodies_are_waited_for,
    only_clients_that_left_are_cancelled,
    handlers_of_clients_that_left_are_cancelled,
    events_end_with_a_drain,
    slow_clients_do_not_block,
    idle_connections_end_with_a_drain,
    upgrades_pass_the_layers,
    failures_are_logged,
    statistics_add_up,
)
