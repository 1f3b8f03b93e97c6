"""The outcomes of a call that a call has submitted, as its slot gets them."""

from __future__ import annotations


class ChildOutcome:
    """The first part of the reply to a submitted call. The second part is bytes."""

    VALUE = 0  # the payload of a result
    ERROR = 1  # the payload of an exception that the call has raised
    FAILED = 2  # the pickle of an exception of this package: the call did not run to its end
    CANCELLED = 3


CALLER = "caller"
"""The key of the trace context among the options of a child call, if its caller has one."""
