"""Requests to EC2: boto3 signs and parses, and each request can be aborted by another thread."""

from __future__ import annotations

import os
import random
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import boto3
import httpx
from botocore.awsrequest import AWSResponse, HeadersDict
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.ec2.errors import EC2Error
from dragonfly_executor.backends.http_connection import HttpConnection

REQUEST_TIMEOUT = 20.0
"""Seconds that one request may take."""
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 5.0
"""Seconds at most before the first and before any further repetition. Each pause is random between 0 and that."""


class EC2Client:
    """The EC2 API of one region. Any thread.

    Args:
        region: the region; None for the one of AWS's own settings.
        profile: a profile of AWS's configuration files; None for the default.
        endpoint_url: the API's URL; None for AWS's own.

    Attributes:
        region: the region in use.

    Raises:
        ValueError: there is no region, or no such profile.
    """

    def __init__(self, region: str | None, profile: str | None, endpoint_url: str | None) -> None:
        try:
            session = boto3.Session(region_name=region, profile_name=profile)
            # Retries are made here: they must end when a boot is given up.
            config = Config(retries={"total_max_attempts": 1, "mode": "standard"})
            self._client = session.client("ec2", endpoint_url=endpoint_url, config=config)
        except BotoCoreError as error:
            raise ValueError(f"EC2 cannot be used: {error} (region=, profile=, or AWS_REGION)") from None
        self.region: str = self._client.meta.region_name
        bundle = os.environ.get("AWS_CA_BUNDLE")
        # Shared by all requests, as it takes milliseconds to make.
        self._verify = ssl.create_default_context(cafile=bundle) if bundle else httpx.create_ssl_context()
        self._current = threading.local()
        self._offset = 0.0
        """EC2's clock minus this machine's, in seconds, by the last answer."""
        self._client.meta.events.register("before-send.ec2", self._send)

    def now(self) -> float:
        """Return seconds since the epoch by EC2's clock, or by this machine's clock until EC2 has answered once."""
        return time.time() + self._offset

    def call(self, action: str, deadline: Deadline, **arguments: Any) -> Mapping[str, Any]:
        """Make a request, and repeat it while EC2 is busy or does not answer.

        Args:
            action: the method of boto3's client. Carrying the request out twice must be the same as once.
            deadline: of all attempts together. A cancellation aborts the request under way.
            arguments: the request's.

        Raises:
            EC2Error: EC2 refused the request, or has not answered in time.
        """
        attempt = 0
        may_have_happened = False
        while True:
            try:
                return self._call_once(action, deadline, arguments)
            except EC2Error as error:
                may_have_happened = may_have_happened or error.may_have_happened
                pause = random.uniform(0.0, min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt))  # noqa: S311
                if not error.is_temporary or deadline.is_cancelled or deadline.left() <= pause:
                    error.may_have_happened = may_have_happened
                    raise
            attempt += 1
            deadline.pause(pause)

    def pages(self, action: str, deadline: Deadline, **arguments: Any) -> Iterator[Mapping[str, Any]]:
        """Yield all pages of a request that lists.

        Raises:
            EC2Error: see `call`.
        """
        token = None
        while True:
            page = self.call(action, deadline, **arguments, **({"NextToken": token} if token else {}))
            yield page
            token = page.get("NextToken")
            if not token:
                return

    def _call_once(self, action: str, deadline: Deadline, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        self._current.deadline, self._current.was_sent = deadline, False
        try:
            answer: Mapping[str, Any] = getattr(self._client, action)(**arguments)
        except ClientError as error:
            said = error.response.get("Error", {})
            code, status = str(said.get("Code", "")), error.response["ResponseMetadata"]["HTTPStatusCode"]
            # A gateway's error page has no code.
            known = code if code and not (status >= 500 and code == str(status)) else "Unavailable"
            text = f"EC2 refused {action}: {code}: {str(said.get('Message', ''))[:1000]}"
            raise EC2Error(text, known, may_have_happened=status >= 500) from None
        except (httpx.HTTPError, OSError) as error:
            text = f"EC2 has not answered {action}: {type(error).__name__}: {error}"
            raise EC2Error(text, may_have_happened=self._current.was_sent) from None
        except BotoCoreError as error:
            # No credentials, arguments of a wrong type: nothing was sent.
            raise EC2Error(f"{action} could not be sent to EC2: {error}", type(error).__name__) from None
        finally:
            self._current.deadline = None
        return answer

    def _send(self, request: Any, **_: Any) -> Any:
        """Send a request that boto3 has signed. boto3 calls this for each attempt."""
        deadline: Deadline = self._current.deadline
        timeout = deadline.step_timeout(REQUEST_TIMEOUT)
        with httpx.Client(verify=self._verify, timeout=timeout, limits=httpx.Limits(max_connections=1)) as client:
            connection = HttpConnection(client)
            try:
                with deadline.ending(connection.cut):
                    body = request.body.encode() if isinstance(request.body, str) else request.body
                    sent = httpx.Request(
                        request.method,
                        request.url,
                        headers={name: _text(value) for name, value in request.headers.items()},
                        content=body or b"",
                        extensions={"trace": self._trace(connection), "timeout": httpx.Timeout(timeout).as_dict()},
                    )
                    answer = client.send(sent)
            finally:
                connection.close()
        self._read_clock(answer.headers.get("date", ""))
        headers = HeadersDict({**answer.headers})
        return AWSResponse(request.url, answer.status_code, headers, _Body(answer.content))

    def _trace(self, connection: HttpConnection[httpx.Client]) -> Any:
        current = self._current

        def trace(step: str, said: Mapping[str, Any]) -> None:
            """Note that the request is on its way."""
            if step.endswith(".send_request_headers.started"):
                current.was_sent = True
            connection.trace(step, said)

        return trace

    def _read_clock(self, date: str) -> None:
        try:
            self._offset = parsedate_to_datetime(date).timestamp() - time.time()
        except (ValueError, TypeError):
            return


class _Body:
    """The body of an answer, as boto3 reads it."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def stream(self, **_: Any) -> Iterator[bytes]:
        """Yield the content."""
        yield self._content


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
