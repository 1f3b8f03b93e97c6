"""What a runner reports, as the events and errors that it means in the parent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dragonfly_executor import errors
from dragonfly_executor.core import events

if TYPE_CHECKING:
    from dragonfly_executor.payload import CallCodec
    from dragonfly_executor.runner_link import Said


def events_of(runner_id: int, said: Said) -> Iterator[events.Event]:
    """The events in what a runner said in one read, in the order in which the core is to hear them."""
    if said.started:
        yield events.CallsStarted(runner_id, said.started)
    if said.results:
        yield events.ResultsArrived(runner_id, said.results)
    if said.returned:
        yield events.CallsReturned(runner_id, said.returned)
    for (call_id, attempt), how in said.lost:
        error = slot_lost(runner_id, how)
        yield events.CallLost(runner_id, call_id, attempt, error, error.may_have_started)
    for call_id, attempt in said.timed_out:
        yield events.CallTimedOut(runner_id, call_id, attempt)
    for call_id, attempt in said.gone:
        yield events.CallGone(runner_id, call_id, attempt)
    if said.idle is not None:
        yield events.IdleChecked(runner_id, said.idle)
    if said.round_trip is not None:
        yield events.RoundTrip(runner_id, said.round_trip)


def slot_lost(runner_id: int, how: dict[str, Any]) -> errors.RunnerLostError:
    """The error of a call whose slot died under it."""
    from dragonfly_executor.errors.broken import describe_exit

    end = describe_exit(how["code"], how["signal"])
    text = f"the slot that ran this call (process {how['pid']} of runner {runner_id}) was lost: it {end}"
    return errors.RunnerLostError(text, how["code"], how["signal"], runner_id, how["started"], how["output"])


def initializer_error(codec: CallCodec, payload: bytes, is_error: bool) -> Exception:
    """The `InitializerError` for what a slot reported; opening it may run the user's code."""
    if is_error:
        cause = codec.decode_error(payload)
        error = errors.InitializerError(f"the initializer raised {type(cause).__name__}: {cause}")
        error.__cause__ = cause
        return error
    return errors.InitializerError(payload.decode(errors="replace"))
