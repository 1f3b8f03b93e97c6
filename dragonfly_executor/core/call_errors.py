"""The errors that the core settles calls with, made where they are needed: their classes are slow to import."""

from __future__ import annotations

from collections.abc import Callable

from dragonfly_executor import errors
from dragonfly_executor.core.calls import Call, CallState
from dragonfly_executor.core.usage import Meter


def budget_ended(call: Call, now: float) -> errors.CallTimeoutError:
    """A budget of a call ended, and its runner did not say so first."""
    if call.deadline is None or now < call.deadline:
        limit = call.limits.queue_timeout
        return errors.CallTimeoutError(f"the call was not sent to a runner within its queue_timeout of {limit:g} s")
    if call.state <= CallState.DELAYED:
        why = "it was waiting for a runner" if call.attempt == 1 else f"it was waiting for its attempt {call.attempt}"
    else:
        why = f"it was stopped on runner {call.runner}"
    return errors.CallTimeoutError(f"the call did not end within its timeout of {call.limits.timeout:g} s: {why}")


def ran_too_long(call: Call, now: float) -> errors.CallTimeoutError:
    """The runner stopped a call at the end of one of its budgets."""
    run_timeout, timeout = call.limits.run_timeout, call.limits.timeout
    if run_timeout is not None and (call.deadline is None or now < call.deadline):
        budget = f"run_timeout of {run_timeout:g} s"
    elif timeout is not None:
        budget = f"timeout of {timeout:g} s"
    else:
        budget = "budget"
    return errors.CallTimeoutError(f"the call did not end within its {budget}: it was stopped on runner {call.runner}")


def not_opened(call: Call, seconds: float) -> errors.CallTimeoutError:
    """The runner stopped a call before its function began."""
    return errors.CallTimeoutError(
        f"the call was stopped on runner {call.runner} before its function began: opening it (imports, unpickling) took"
        f" {seconds:.3g} s; raise boot_timeout=, or let the function itself import what takes long"
    )


def vanished(runner_id: int) -> errors.RunnerLostError:
    """A runner, or a call on it, went away and nobody said how."""
    return errors.RunnerLostError(f"runner {runner_id} was gone before the call ended", runner_id=runner_id)


def terminated() -> errors.RunnerLostError:
    """The pool was killed with calls on its runners."""
    return errors.RunnerLostError("the pool was terminated while the call was on a runner")


def poisoned(call: Call, error: Exception) -> errors.PoisonCallError:
    """A call took its slot with it on every attempt that it had."""
    last = error if isinstance(error, errors.RunnerLostError) else errors.RunnerLostError(str(error))
    poison = errors.PoisonCallError(
        f"the call lost what ran it on each of its {call.attempt} attempts, and is not tried again; last: {error}",
        last.exit_code,
        last.signal,
        last.runner_id,
    )
    poison.__cause__ = error
    return poison


def used_up(meter: Meter, now: float) -> str:
    """That the pool's runners have used what they may, and how much that was."""
    seconds, cost, caps = meter.seconds(now), meter.cost(now), meter.caps
    by = f", by prices as of {caps.as_of}" if caps.as_of else ""
    used = f"{_figure(seconds)} machine-seconds" + ("" if cost is None else f" (estimated at {_figure(cost)} USD{by})")
    limits = [] if caps.machine_seconds is None else [f"{caps.machine_seconds:.10g} machine-seconds"]
    limits += [] if caps.cost is None else [f"{caps.cost:.10g} USD"]
    return f"the pool's budget of {' and '.join(limits)} is used up: its runners have used {used}"


def over_budget(meter: Meter, now: float, used: str) -> Callable[[Call], errors.BudgetExceeded]:
    """Calls wait, and the budget is used up: what makes the error of each. `used`: what `used_up` said of that."""
    seconds, cost, exceeded = meter.seconds(now), meter.cost(now), errors.BudgetExceeded
    advice = "raise budget= in a new pool"
    fresh = f"{used}; the call was not started; {advice}"

    def error_of(call: Call) -> errors.BudgetExceeded:
        """Each its own: one error that is raised for many calls would collect the tracebacks of them all."""
        # One that waits to be tried again was lost, or raised what `retry_on` names. It must not be taken for fresh.
        text = fresh
        if call.attempt > 1:
            text = f"{used}; the call may have run before; its attempt {call.attempt} was not begun; {advice}"
        return exceeded(text, seconds, cost)

    return error_of


def _figure(value: float) -> str:
    return f"{value:.4g}" if value < 1000 else f"{value:.0f}"


def is_final(error: Exception) -> bool:
    """Whether no further boot can end better than this one did."""
    return isinstance(error, errors.BootError) and error.final


def all_boots_hang(count: int, last: Exception | None) -> errors.BootError:
    """Every boot that the backend runs at once was given up, and it has come back from none of them."""
    text = f"the backend has not come back from {count} boots that were given up, and runs no more than that at once"
    error = errors.BootError(f"{text} (max_concurrent_boots)")
    error.__cause__ = last
    return error


def no_runner(error: Exception, failures: int) -> errors.BootError:
    """Boots failed until there was no point in waiting."""
    if isinstance(error, errors.BootError):
        error.attempts = failures
        return error
    boot_error = errors.BootError(f"no runner could be booted: {error}", attempts=failures)
    boot_error.__cause__ = error
    return boot_error
