"""The errors that the core settles calls with, made where they are needed: their classes are slow to import."""

from __future__ import annotations

from dragonfly_executor import errors
from dragonfly_executor.core.ledger import Call, CallState
from dragonfly_executor.core.meter import Meter


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


def over_budget(meter: Meter, now: float) -> errors.BudgetExceeded:
    """The pool's runners have used what they may."""
    seconds, cost = meter.seconds(now), meter.cost(now)
    caps = meter.caps
    by = f", by prices as of {caps.as_of}" if caps.as_of else ""
    used = f"{seconds:.1f} machine-seconds" + ("" if cost is None else f" (estimated at {cost:.4f} USD{by})")
    limits = [] if caps.machine_seconds is None else [f"{caps.machine_seconds:.0f} machine-seconds"]
    limits += [] if caps.cost is None else [f"{caps.cost:g} USD"]
    return errors.BudgetExceeded(
        f"the pool's budget of {' and '.join(limits)} is used up: its runners have used {used}. Calls that ran go on, "
        "and no others begin; raise budget= in a new pool",
        seconds,
        cost,
    )


def is_final(error: Exception) -> bool:
    """Whether no further boot can end better than this one did."""
    return isinstance(error, errors.BootError) and error.final


def no_runner(error: Exception, failures: int) -> errors.BootError:
    """Boots failed until there was no point in waiting."""
    if isinstance(error, errors.BootError):
        error.attempts = failures
        return error
    boot_error = errors.BootError(f"no runner could be booted: {error}", attempts=failures)
    boot_error.__cause__ = error
    return boot_error
