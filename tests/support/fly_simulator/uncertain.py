"""What the reference cannot say for certain: each a switch, so that no test rests on a guess."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(slots=True)
class Switches:
    """How this simulator behaves where the reference says (?), (I) or "often". Each names its place there.

    Attributes:
        retry_after: the form of that header of 429 replies; None sends none (1.5, 7).
        rate_body_is_plain: 429 replies are plain text, not JSON (7).
        errors_are_html: 5xx replies of faults are HTML, not JSON (1.5, 7).
        affinity_is_heeded: who sends the cookie is answered by the host that knows best; then nobody who has created a
            machine is told that there is none (1.1; flyctl asks again all the same, 1.5).
        wait_takes_from_rate: a wait counts against the rate of its machine, once (7).
        name_free_while_destroying: a name may be used again before its machine is destroyed (1.6).
        second_destroy: the status of destroying a machine that is destroyed (7).
        destroyed_readable: seconds that a destroyed machine still answers GET (2, 7).
        gets_destroying_after_wait: how many GETs still say `destroying` when a wait has said `destroyed` (2).
        wait_stopped_is_404: waiting for `stopped` of a machine with auto_destroy (2: "often").
        starting_is_shown: `starting` comes between `created` and `started` (2).
        missing_image: where it shows that there is no such image: the create is refused, the machine fails to launch,
            or it stays in `created` (7).
        missing_image_status: with which status the create is refused (7).
        plan_limit_status: with which status a machine is refused that the plan does not allow (1.5).
        bad_guest_status: with which status a guest that does not exist is refused (1.5).
        performance_memory_step: MB (6: the documentation and FLAME differ).
        name_limit: characters of a machine's name; None for no limit (7).
        env_limit: bytes of a machine's environment; None for no limit (7).
        create_commits_late: `Timing.create_latency` passes before the machine exists, not after (1.6).
        exit_event_nested: it stands in `request.MonitorEvent` (2).
        exit_event_omits_zero: its fields that are 0 or false are left out (2).
        exited_at_is_text: RFC 3339, not milliseconds (2).
        lease_status: of a lease that was made (1.2).
        skips_secrets: `skip_secrets` in a create is heeded (1.3: in the document, and tried by nobody).
        secret_wins: an app's secret wins over an entry of `config.env` with the same name (3.3).
    """

    retry_after: Literal["seconds", "date"] | None = None
    rate_body_is_plain: bool = False
    errors_are_html: bool = True
    affinity_is_heeded: bool = True
    wait_takes_from_rate: bool = True
    name_free_while_destroying: bool = False
    second_destroy: int = 200
    destroyed_readable: float = math.inf
    gets_destroying_after_wait: int = 0
    wait_stopped_is_404: bool = True
    starting_is_shown: bool = True
    missing_image: Literal["refused", "launch_failed", "stuck"] = "refused"
    missing_image_status: int = 400
    plan_limit_status: int = 422
    bad_guest_status: int = 400
    performance_memory_step: int = 1024
    name_limit: int | None = 63
    env_limit: int | None = None
    create_commits_late: bool = False
    exit_event_nested: bool = False
    exit_event_omits_zero: bool = False
    exited_at_is_text: bool = False
    lease_status: int = 201
    skips_secrets: bool = True
    secret_wins: bool = True
