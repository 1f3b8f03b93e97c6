"""The errors with which the core settles calls, made on demand because their classes are slow to import."""

from __future__ import annotations

from collections.abc import Callable

from dragonfly_executor import errors
from dragonfly_executor.core.calls import Call, CallState
from dragonfly_executor.core.runner import Runner
from dragonfly_executor.core.usage import Usage


def timed_out(call: Call, now: float) -> errors.CallTimeoutError:
    """Return the error of a call whose timeout or queue_timeout expired before its runner reported that."""
    if call.deadline is None or now < call.deadline:
        limit = call.limits.queue_timeout
        return errors.CallTimeoutError(f"the call was not sent to a runner within its queue_timeout of {limit:g} s")
    if call.state <= CallState.DELAYED:
        why = "it was waiting for a runner" if call.attempt == 1 else f"it was waiting for its attempt {call.attempt}"
    else:
        why = f"it was stopped on runner {call.runner}"
    return errors.CallTimeoutError(f"the call did not end within its timeout of {call.limits.timeout:g} s: {why}")


def ran_too_long(call: Call, now: float) -> errors.CallTimeoutError:
    """Return the error of a call that the runner stopped at its timeout or run_timeout."""
    run_timeout, timeout = call.limits.run_timeout, call.limits.timeout
    if run_timeout is not None and (call.deadline is None or now < call.deadline):
        limit = f"run_timeout of {run_timeout:g} s"
    elif timeout is not None:
        limit = f"timeout of {timeout:g} s"
    else:
        limit = "timeout"
    where = f"on runner {call.runner}"
    if call.attempt > 1:
        where += f", at its attempt {call.attempt}"
    return errors.CallTimeoutError(f"the call did not end within its {limit}: it was stopped {where}")


def not_opened(call: Call, seconds: float) -> errors.CallTimeoutError:
    """Return the error of a call that the runner stopped before its function began.

    Args:
        call: the call.
        seconds: how long the slot had been opening it.
    """
    return errors.CallTimeoutError(
        f"the call was stopped on runner {call.runner} before its function began: opening it (imports, unpickling) took"
        f" {seconds:.3g} s; raise boot_timeout=, or move slow imports into the function"
    )


def vanished(runner_id: int) -> errors.RunnerLostError:
    """Return the error of a call that vanished, or whose runner vanished, for an unknown reason."""
    return errors.RunnerLostError(f"runner {runner_id} was gone before the call ended", runner_id=runner_id)


def ended(runner: Runner) -> errors.RunnerLostError:
    """Return the error of the calls that ran on a runner when its platform ended it."""
    return errors.RunnerLostError(
        f"runner {runner.id} was lost: {runner.ended_by}. The call may have run; use retries= if it is safe to run"
        " twice, run_timeout= so that it is sent only to a runner that has the time, or on_drain() to save its state",
        runner_id=runner.id,
    )


def terminated() -> errors.RunnerLostError:
    """Return the error of a call that was on a runner when the pool was killed."""
    return errors.RunnerLostError("the pool was terminated while the call was on a runner")


def poisoned(call: Call, error: Exception) -> errors.PoisonCallError:
    """Return the error of a call whose slot died on each of its attempts. Its cause is `error`."""
    last = error if isinstance(error, errors.RunnerLostError) else errors.RunnerLostError(str(error))
    poison = errors.PoisonCallError(
        f"each of the call's {call.attempt} attempts lost its slot or runner; it is not tried again; last: {error}",
        exit_code=last.exit_code,
        signal=last.signal,
        runner_id=last.runner_id,
    )
    poison.__cause__ = error
    return poison


def used_up(usage: Usage, now: float, backend: str = "") -> str:
    """Return the sentence that states the budget of the pool, or of a backend, and the usage of its runners."""
    seconds, cost, caps = usage.seconds(now), usage.cost(now), usage.caps
    by = f", by prices as of {caps.as_of}" if caps.as_of else ""
    used = f"{_figure(seconds)} machine-seconds" + ("" if cost is None else f" (estimated at {_figure(cost)} USD{by})")
    limits = [] if caps.machine_seconds is None else [f"{caps.machine_seconds:.10g} machine-seconds"]
    limits += [] if caps.cost is None else [f"{caps.cost:.10g} USD"]
    whose = f"the {backend} backend's" if backend else "the pool's"
    return f"{whose} budget of {' and '.join(limits)} is used up: its runners have used {used}"


def over_budget(usage: Usage, now: float, used: str) -> Callable[[Call], errors.BudgetExceeded]:
    """Return a function that makes the error of each waiting call once the budget is used up.

    Args:
        usage: the usage and its caps.
        now: monotonic seconds.
        used: the text of `used_up`.
    """
    seconds, cost, exceeded = usage.seconds(now), usage.cost(now), errors.BudgetExceeded
    advice = "make a new pool with a larger budget="
    fresh = f"{used}; the call was not started; {advice}"

    def error_of(call: Call) -> errors.BudgetExceeded:
        """Return a new error for each call: one shared error collects the tracebacks of all calls."""
        # A call that waits for a retry was lost, or raised an error that `retry_on` names. Its text must not say that
        # it never started.
        text = fresh
        if call.attempt > 1:
            text = (
                f"{used}; an earlier attempt of the call may have run; attempt {call.attempt} was not started; {advice}"
            )
        return exceeded(text, seconds, cost)

    return error_of


def _figure(value: float) -> str:
    return f"{value:.4g}" if value < 1000 else f"{value:.0f}"


def is_final(error: Exception) -> bool:
    """Return whether every further boot fails until a person changes something."""
    return isinstance(error, errors.BootError) and error.final


def all_boots_hang(count: int, last: Exception | None) -> errors.BootError:
    """Return the error for waiting calls when all of the backend's concurrent boots were given up and still block."""
    text = f"{count} boots that were given up still block in the backend, and no more than {count} may run at once"
    error = errors.BootError(f"{text} (max_concurrent_boots)")
    error.__cause__ = last
    return error


def tier_passed_over(name: str, error: Exception, seconds: float) -> str:
    """Return the warning that a backend is passed over for some seconds, because its boots have failed."""
    return (
        f"the {name} backend could not boot a runner, and the pool's other backends boot instead; it is tried again in "
        f"{seconds:.0f} s, if calls need it: {error}"
    )


def no_runner(error: Exception, failures: int) -> errors.BootError:
    """Return the error for waiting calls after `failures` failed boots in a row."""
    if isinstance(error, errors.BootError):
        error.attempts = failures
        return error
    boot_error = errors.BootError(f"no runner could be booted: {error}", attempts=failures)
    boot_error.__cause__ = error
    return boot_error
