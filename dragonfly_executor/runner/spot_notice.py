"""Waits for EC2's notice that it will interrupt a spot instance, and then sends the runner SIGTERM.

``python -P -m dragonfly_executor.runner.spot_notice PID`` ends when the process PID has ended. EC2 publishes the notice
in the instance's metadata, two minutes ahead. Metadata can only be polled: AWS recommends every 5 s.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import closing, suppress

ENDPOINT = "http://169.254.169.254"
VARIABLE = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
"""The environment variable with another address of the metadata service, as in AWS's own programs."""
NOTICE = "/latest/meta-data/spot/instance-action"
HEADER = "X-aws-ec2-metadata-token"
EVERY = 5.0
"""Seconds between two requests."""
TOKEN_TTL = 21600
"""Seconds for which a token of the metadata service is asked for."""


def main(arguments: list[str]) -> None:
    """Wait for the notice, or for the end of the process."""
    from http.client import HTTPException

    pid = int(arguments[0])
    endpoint = os.environ.get(VARIABLE) or ENDPOINT
    token = ""
    while is_running(pid):
        with suppress(OSError, HTTPException):
            status, token = look(endpoint, token)
            if status == 200:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
                return
        time.sleep(EVERY)


def look(endpoint: str, token: str) -> tuple[int, str]:
    """Ask for the notice. Return the HTTP status, which is 200 once there is one, and a token for the next time.

    Raises:
        OSError, HTTPException: the metadata service does not answer.
    """
    token = (
        token or ask(endpoint, "PUT", "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds", str(TOKEN_TTL))[1]
    )
    status, _ = ask(endpoint, "GET", NOTICE, "X-aws-ec2-metadata-token", token)
    # 401: the token has expired.
    return status, "" if status == 401 else token


def ask(endpoint: str, method: str, path: str, header: str, value: str) -> tuple[int, str]:
    """Make a request with one header. Return its status and its body."""
    # Slow to import, and this module is among those of the runner.
    from http.client import HTTPConnection
    from urllib.parse import urlsplit

    url = urlsplit(endpoint)
    with closing(HTTPConnection(url.hostname or "", url.port or 80, timeout=EVERY)) as connection:
        connection.request(method, path, headers={header: value})
        answer = connection.getresponse()
        return answer.status, answer.read(4096).decode(errors="replace")


def is_running(pid: int) -> bool:
    """Return True if this process still exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


if __name__ == "__main__":
    main(sys.argv[1:])
