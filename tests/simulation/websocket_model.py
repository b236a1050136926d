"""The specification of WebSockets, as checks of the journal of a run. See ``model``."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

from humphrey_trio.websocket import CloseRecord

from .http_expected import ends_silently
from .http_handlers import LAYER
from .journal import ClientLife, Journal, Sending, Session
from .script import Script
from .times import SWEEP_SECONDS, TAKE_SECONDS, WRITE_SECONDS

# ---------------------------------------------------------------------------------------------- queries


def session_of(journal: Journal, life: ClientLife) -> Session | None:
    """The stream of a client, if its connect handler ran."""
    found = [session for session in journal.sessions.values() if session.client == life.plan.name]
    return found[-1] if found else None


def record_of(session: Session | None) -> CloseRecord | None:
    """The final close record of a stream."""
    return None if session is None else session.stream.close_record


def received_by(journal: Journal, life: ClientLife) -> list[Sending]:
    """What a client received, in order."""
    return [journal.sendings[token] for token in life.received if token in journal.sendings]


def is_undisturbed(journal: Journal, life: ClientLife) -> bool:
    """Whether only client and server have ended a connection, and the client did not misbehave."""
    return not life.misbehaves and "http cancelled" not in journal.happened


# --------------------------------------------------------------------------------------------- handlers


def connect_and_disconnect_once(script: Script, journal: Journal) -> Iterator[str]:
    """Each stream is connected and disconnected once, or never if it had ended before the app took it."""
    for session in journal.sessions.values():
        record = record_of(session)
        left_early = record is None or record.initiator == "server" or journal.clients[session.client].misbehaves
        expected = 0 if left_early and not session.connected else 1
        if len(session.connected) != expected or len(session.disconnected) != expected:
            yield (
                f"{session.client}: connected {len(session.connected)} times,"
                f" disconnected {len(session.disconnected)} times"
            )
    for name in journal.clients:
        if sum(session.client == name for session in journal.sessions.values()) > 1:
            yield f"{name}: one connection became two streams"


def handlers_in_order(script: Script, journal: Journal) -> Iterator[str]:
    """Messages are handled in order, none is skipped or handled twice, and not too many run at once."""
    for session in journal.sessions.values():
        began = journal.clients[session.client].began
        if session.handled != began[: len(session.handled)]:
            yield f"{session.client}: handled {session.handled} of {began}"
        if session.most_running > script.setup.concurrency:
            yield f"{session.client}: {session.most_running} handlers ran at once"
        yield from (f"{session.client}: {fault}" for fault in session.faults)


def messages_are_counted(script: Script, journal: Journal) -> Iterator[str]:
    """Every received message was handled or counts as unhandled."""
    for session in journal.sessions.values():
        record, life = record_of(session), journal.clients[session.client]
        if record is None:
            yield f"{session.client}: its stream has no close record"
        elif len(session.handled) + record.unhandled != record.messages_received:
            yield (
                f"{session.client}: received {record.messages_received}, but handled {len(session.handled)}"
                f" and counted {record.unhandled} as unhandled"
            )
        elif record.messages_received > len(life.began):
            yield f"{session.client}: {record.messages_received} messages were received of {len(life.began)}"


def no_message_is_lost_on_the_way_in(script: Script, journal: Journal) -> Iterator[str]:
    """Messages before a client's close are received, and with WhenLeft.FINISH they are handled."""
    for session in journal.sessions.values():
        record, life = record_of(session), journal.clients[session.client]
        if record is None or record.initiator != "client" or not is_undisturbed(journal, life):
            continue
        if record.messages_received != len(life.sent):
            yield f"{session.client}: received {record.messages_received} of {len(life.sent)} messages"
        # A WebSocket app that runs only for one connection ends with it.
        alone = script.setup.hosted and not script.setup.running
        if (
            script.setup.finish
            and not alone
            and not session.connect_failed
            and not {"websocket cancelled", "drain"} & set(journal.happened)
            and session.handled != life.sent
        ):
            yield f"{session.client}: closed, and only {session.handled} of {life.sent} were handled"


# ---------------------------------------------------------------------------------------------- clients


def upgrades_are_answered(script: Script, journal: Journal) -> Iterator[str]:
    """Each upgrade gets the status of its kind; a 503 only where there is a reason."""
    expected = {"good": 101, "path": 404, "origin": 403, "denied": 401, "plain": 200, "silent": 0}
    expected |= {"answered": LAYER, "crashed": 500, "regretted": 500} if script.setup.layers else {}
    reasons = {"http cancelled", "websocket cancelled", "drain"} & set(journal.happened)
    limited = script.setup.max_connections is not None or script.setup.max_streams is not None
    for name, life in journal.clients.items():
        for attempt, status in zip(life.plan.attempts, life.statuses, strict=False):
            excused = (reasons or limited or life.plan.break_at) and status in (0, 503)
            excused = excused or (status == 0 and any(ends_silently(exchange) for exchange in life.exchanges))
            if status != expected.get(attempt, 101) and not excused:
                yield f"{name}: got {status} for {attempt!r}"


def messages_arrive_once(script: Script, journal: Journal) -> Iterator[str]:
    """A client gets no message twice, none that was not sent, and none of other clients."""
    for name, life in journal.clients.items():
        session = session_of(journal, life)
        if len(set(life.received)) < len(life.received):
            yield f"{name}: received a message twice: {life.received}"
        for token in life.received:
            sending = journal.sendings.get(token)
            if sending is None:
                yield f"{name}: received {token!r}, which was not sent"
            elif session is None:
                yield f"{name}: received {token!r}, but no app has taken its stream"
            elif sending.kind == "send" and sending.stream != session.stream.id:
                yield f"{name}: received {token!r}, which is for another"
            elif sending.kind == "send" and sending.outcome == "closed":
                yield f"{name}: received {token!r}, whose send raised ConnectionClosed"
            elif session.disconnected and sending.called > session.disconnected[0]:
                yield f"{name}: received {token!r}, which was sent after it was disconnected"
            elif sending.returned < session.taken:
                yield f"{name}: received {token!r}, which was sent before its stream was taken"
        yield from (f"{name}: {fault}" for fault in life.faults)


def messages_arrive_in_order(script: Script, journal: Journal) -> Iterator[str]:
    """A message whose call had returned before another was called arrives before the other."""
    for name, life in journal.clients.items():
        latest = 0
        for sending in received_by(journal, life):
            if sending.returned < latest:
                yield f"{name}: received {sending.token!r} too late, in {life.received}"
            latest = max(latest, sending.called)


def broadcasts_have_one_order(script: Script, journal: Journal) -> Iterator[str]:
    """All clients receive broadcasts and publications in the same order."""
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for life in journal.clients.values():
        shared = [sending.token for sending in received_by(journal, life) if sending.kind != "send"]
        for before, after in itertools.pairwise(shared):
            sorter.add(after, before)
    try:
        sorter.prepare()
    except CycleError as exc:
        yield f"broadcasts have no common order: {exc.args[1]}"


def no_message_is_lost_on_the_way_out(script: Script, journal: Journal) -> Iterator[str]:
    """A client that got the Close frame got all earlier messages, except for those that count as dropped."""
    for name, life in journal.clients.items():
        session = session_of(journal, life)
        record = record_of(session)
        if session is None or record is None or life.close is None:
            continue
        if len(life.received) != record.messages_sent:
            yield f"{name}: received {len(life.received)} messages of {record.messages_sent} that count as sent"
        if life.frame_bytes != record.bytes_sent:
            yield f"{name}: received {life.frame_bytes} bytes of {record.bytes_sent} that count as sent"
        got, number = set(life.received), session.stream.id
        missing = [s for s in journal.sendings.values() if number in s.sure and s.token not in got]
        if len(missing) > record.dropped:
            yield f"{name}: {[s.token for s in missing]} are missing, {record.dropped} were dropped"
        kept = [s.token for s in missing if s.kind == "send" or s.policy == "close"]
        if kept and (record.code, record.reason) != (1013, "too slow"):
            yield f"{name}: {kept} are missing, which may not be dropped"


def messages_sent_are_counted(script: Script, journal: Journal) -> Iterator[str]:
    """Each message counts as sent or as dropped, and nothing else does."""
    for number, session in journal.sessions.items():
        record = record_of(session)
        if record is None:
            continue
        sure = sum(number in sending.sure for sending in journal.sendings.values())
        possible = sum(sending.stream in (None, number) for sending in journal.sendings.values())
        counted = record.messages_sent + record.dropped
        if not sure <= counted <= possible:
            yield (
                f"{session.client}: {record.messages_sent} count as sent and {record.dropped} as dropped,"
                f" but {sure} to {possible} were handed over"
            )


def every_end_is_visible(script: Script, journal: Journal) -> Iterator[str]:
    """Every client sees the end of its connection; an undisturbed client gets a Close frame first."""
    for name, life in journal.clients.items():
        session = session_of(journal, life)
        record = record_of(session)
        if life.server is not None and not life.server.closed:
            yield f"{name}: its transport was not closed"
        if life.ended == "open" and not {"leave", "reset"} & set(life.misbehaviour):
            yield f"{name}: did not see the end of its connection"
        if life.close is not None and record is not None and life.close != (record.code, record.reason):
            yield f"{name}: got Close {life.close}, the record has {record.code} {record.reason!r}"
        # A new connection beyond max_connections closes the oldest one that lingers.
        may_be_cut = script.setup.max_connections is not None
        if 101 in life.statuses and is_undisturbed(journal, life) and not may_be_cut:
            if life.close is None:
                yield f"{name}: got no Close frame; the record is: {record}"
            elif life.ended != "eof" and life.plan.stream != "closing" and not (session and session.shielded):
                yield f"{name}: its connection ended by {life.ended}"
            elif record is not None and not record.clean:
                yield f"{name}: the end was not clean: {record}"
            elif record is not None and record.bytes_received != life.sent_bytes:
                yield f"{name}: {record.bytes_received} bytes were received of {life.sent_bytes}"


def broken_protocols_are_closed(script: Script, journal: Journal) -> Iterator[str]:
    """A client that violates the protocol gets the code for that, and no other client gets it."""
    for name, life in journal.clients.items():
        record = record_of(session_of(journal, life))
        expected = {int(kind.removeprefix("bad ")) for kind in life.misbehaviour if kind.startswith("bad ")}
        if life.close is not None and life.close[0] in {1002, 1007, 1009} - expected:
            yield f"{name}: expected one of {expected}, got Close {life.close}"
        if expected and not life.plan.break_at and record is not None and record.initiator == "client":
            yield f"{name}: expected {expected}, but: {record}"


def slow_clients_are_cut_off(script: Script, journal: Journal) -> Iterator[str]:
    """No ``send`` waits longer than ``Timeouts.write`` for a client that accepts nothing; nor does the end."""
    for sending in journal.sendings.values():
        if sending.kind == "send" and sending.seconds > WRITE_SECONDS + SWEEP_SECONDS:
            yield f"{sending.token}: its send took {sending.seconds:.2f} s"
    for name, life in journal.clients.items():
        if life.mute and life.close is not None and life.ended == "patience" and life.plan.stream != "closing":
            yield f"{name}: did not answer Close, and its connection did not end"


def quick_clients_are_not_slow(script: Script, journal: Journal) -> Iterator[str]:
    """A client that did not misbehave is not counted as slow, unless its outbox was full."""
    for session in journal.sessions.values():
        record, life = record_of(session), journal.clients[session.client]
        if record is None or life.misbehaves or record.code == 1013:
            continue
        if session.stream.statistics().slow_closes:
            yield f"{session.client}: counts as slow; the record is: {record}"


def waiting_streams_are_closed(script: Script, journal: Journal) -> Iterator[str]:
    """A stream in the hook is closed at once when the WebSocket app ends."""
    for name, life in journal.clients.items():
        if 101 not in life.statuses or life.close is None or session_of(journal, life) is not None:
            continue
        if life.close[0] == 1013 and life.closed_at - life.connected_at < TAKE_SECONDS:
            yield f"{name}: was not taken, and got Close {life.close} too early"
        if not life.misbehaves and life.closed_at > journal.happened["websocket ended"] + SWEEP_SECONDS:
            yield f"{name}: was not taken, and the app that ended did not close it"


def hard_stop_sends_close(script: Script, journal: Journal) -> Iterator[str]:
    """A cancelled HTTP app sends queued messages and a Close frame, as far as it can without waiting."""
    if "http cancelled" not in journal.happened or script.setup.max_connections is not None:
        return
    for name, life in journal.clients.items():
        plan = life.plan
        has_room = plan.stream == "direct" and plan.max_send is None and plan.buffer >= 64 * 1024
        if (
            101 in life.statuses
            and has_room
            and not life.misbehaves
            and life.frame_bytes < 10_000
            and not life.close
        ):
            yield f"{name}: its connection was cancelled and sent no Close"


def initiators_are_right(script: Script, journal: Journal) -> Iterator[str]:
    """A stream that the server has not ended was ended by its client, with its code."""
    for session in journal.sessions.values():
        record, life = record_of(session), journal.clients[session.client]
        if record is None or record.initiator != "client" or record.code == 1006:
            continue
        if life.sent_close != record.code:
            yield f"{session.client}: sent Close {life.sent_close}, the record has {record}"


WEBSOCKET_CHECKS = (
    connect_and_disconnect_once,
    handlers_in_order,
    messages_are_counted,
    no_message_is_lost_on_the_way_in,
    upgrades_are_answered,
    messages_arrive_once,
    messages_arrive_in_order,
    broadcasts_have_one_order,
    no_message_is_lost_on_the_way_out,
    messages_sent_are_counted,
    every_end_is_visible,
    broken_protocols_are_closed,
    slow_clients_are_cut_off,
    quick_clients_are_not_slow,
    waiting_streams_are_closed,
    hard_stop_sends_close,
    initiators_are_right,
)
