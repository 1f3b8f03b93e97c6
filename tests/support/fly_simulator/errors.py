"""What Fly answers when it says no: status and body as others have seen them (reference 1.5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.support.fly_simulator.uncertain import Switches


@dataclass(frozen=True, slots=True)
class ErrorPage:
    """A body of which nobody knows whether it is HTML or JSON (?): `Switches.errors_are_html` says."""

    html: str
    json: dict[str, Any]

    def body(self, switches: Switches) -> Any:
        """As it is sent."""
        return self.html if switches.errors_are_html else self.json


class ApiError(Exception):
    """An answer that is no success.

    Args:
        status: of HTTP.
        text: the body's `error`.
        code: the body's `status`, which is often absent.
        headers: to go with it.
        body: the whole body, where it is not `{"error": text}`.
    """

    def __init__(
        self,
        status: int,
        text: str,
        code: str | None = None,
        *,
        headers: dict[str, str] | None = None,
        body: Any = None,
    ) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status
        self.headers = headers or {}
        self.body = body if body is not None else {"error": text} | ({"status": code} if code else {})


HTML = "<html><head><title>{0}</title></head><body><center><h1>{0}</h1></center></body></html>\r\n"


def unauthorized() -> ApiError:
    """(P: recorded by CF)."""
    return ApiError(401, "Authenticate: token validation error")


def forbidden(app: str) -> ApiError:
    """The status is in the reference, the text is not (I)."""
    return ApiError(403, f"permission_denied: not authorized to access app {app}")


def over_quota(organization: str, region: str, memory_mb: int) -> ApiError:
    """(P: KILO)."""
    return ApiError(
        403,
        f'organization "{organization}" is using {memory_mb} MB of memory in {region} which is over the allowed'
        " quota. please consider other regions",
    )


def no_machine() -> ApiError:
    """(P: CF)."""
    return ApiError(404, "not_found: machine not found")


def no_app() -> ApiError:
    """The text is inferred (I)."""
    return ApiError(404, "not_found: app not found")


def name_taken(machine_id: str, name: str) -> ApiError:
    """(L)."""
    text = f'unique machine name violation, machine ID {machine_id} already exists with name "{name}"'
    return ApiError(409, f"already_exists: {text}")


def lease_held(machine_id: str, owner: str, expires_at: str) -> ApiError:
    """(P)."""
    text = f"machine ID {machine_id} lease currently held by {owner}, expires at {expires_at}"
    return ApiError(409, text, body={"status": "error", "message": text, "code": "lease_held", "error": text})


def not_stopped() -> ApiError:
    """(P, three code bases)."""
    text = "unable to destroy machine, not currently stopped, suspended, failed or created"
    return ApiError(412, f"failed_precondition: {text}")


def still_active() -> ApiError:
    """(P/L)."""
    return ApiError(412, "failed_precondition: machine still active, refusing to start")


def cannot_start_from(state: str) -> ApiError:
    """(P/L)."""
    return ApiError(412, f"failed_precondition: unable to start machine from current state: '{state}'")


def wait_timeout_out_of_range() -> ApiError:
    """(L, many)."""
    text = "invalid WaitMachineRequest.Timeout: value must be inside range [1s, 1m0s]"
    return ApiError(400, f"invalid_argument: {text}")


def not_reached(wanted: list[str], state: str) -> ApiError:
    """(P, several); how several wanted states are written is inferred (I)."""
    text = f"machine failed to reach desired state, {', '.join(wanted)}, currently {state}"
    return ApiError(408, f"deadline_exceeded: {text}")


def no_candidate_host() -> ApiError:
    """The region is full (S: GO+ test)."""
    return ApiError(422, "could not find a candidate host", "insufficient_capacity")


def host_full(what: str = "CPUs") -> ApiError:
    """The host that was chosen is full (S: GO+ test)."""
    text = f"could not reserve resource for machine: insufficient {what} available to fulfill request"
    return ApiError(409, f"aborted: {text}")


def no_capacity() -> ApiError:
    """(S: GO+ test)."""
    return ApiError(409, "aborted: no capacity")


def volume_host_full() -> ApiError:
    """(S: GO+)."""
    text = "insufficient resources to create new machine with existing volume id 'vol_0000000000000000'"
    return ApiError(412, text, "volume_placement_capacity")


def host_disabled() -> ApiError:
    """(S: CTL)."""
    return ApiError(409, "deploys to this host are temporarily disabled")


def concurrent_update() -> ApiError:
    """(S: GO+)."""
    return ApiError(409, "aborted: machine update failed due to concurrent update")


def payment_needed(status: int = 422) -> ApiError:
    """The status of the text was not recorded (?)."""
    return ApiError(status, "To create more than 1 machine per app please add a payment method.")


def flaps_timed_out() -> ApiError:
    """Any mutation where flaps timed out talking to flyd: whether it was carried out is unknown (S: CTL)."""
    return ApiError(408, "deadline_exceeded: context deadline exceeded")


def rate_limited(headers: dict[str, str] | None = None, *, plain: bool = False) -> ApiError:
    """The text is (P), the form of the body (I), Retry-After (?)."""
    text = "rate limit exceeded"
    return ApiError(429, text, headers=headers, body=text if plain else None)


def platform(status: int, *, html: bool | None = None) -> ApiError:
    """What is between the client and the API answered, as HTML or as JSON (?). None leaves that to the switch."""
    text = {500: "internal server error", 502: "bad gateway", 503: "service unavailable", 504: "gateway timeout"}
    page = ErrorPage(HTML.format(f"{status} {text[status]}"), {"error": text[status]})
    return ApiError(status, text[status], body={None: page, True: page.html, False: page.json}[html])


def invalid(text: str, status: int = 400) -> ApiError:
    """The caller's fault; texts are inferred (I) where the reference has none."""
    return ApiError(status, f"invalid_argument: {text}")
