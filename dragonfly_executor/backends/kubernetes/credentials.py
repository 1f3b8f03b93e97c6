"""Tokens that a program prints, as a kubeconfig's ``exec`` names one: of GKE, EKS, AKS, or an OIDC login.

lightkube runs such programs too, but without a time limit, and a boot that is given up could not end them.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import httpx2

from dragonfly_executor.backends.base import Signal
from dragonfly_executor.backends.child_processes import answer_of
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.kubernetes.answers import one_line

DEADLINE = "dragonfly_executor.deadline"
"""The key of the request's deadline among its extensions."""
PROGRAM_TIMEOUT = 60.0
"""Seconds that the program may take. It may ask an identity provider elsewhere."""
RENEW_BEFORE = 30.0
"""Seconds before its expiry at which a token is replaced."""
VERSIONS = tuple(f"client.authentication.k8s.io/{version}" for version in ("v1", "v1beta1", "v1alpha1"))


class CredentialsError(Exception):
    """There is no token. The text says why, and never quotes what the program has printed."""


class TokenProgram(NamedTuple):
    """A program that prints a token.

    Attributes:
        command: the program and its arguments.
        environment: variables in addition to this process's.
        api_version: the version of the object that it prints.
        hint: how to install it; "" if the kubeconfig does not say.
    """

    command: Sequence[str]
    environment: Mapping[str, str]
    api_version: str
    hint: str = ""

    @staticmethod
    def of(described: Any, folder: Path | None) -> TokenProgram:
        """Return the program of a kubeconfig's user.

        Args:
            described: lightkube's reading of the entry ``exec``.
            folder: the folder of the kubeconfig, to which a relative path refers.

        Raises:
            ValueError: the version is unknown.
        """
        if described.apiVersion not in VERSIONS:
            raise ValueError(f"the kubeconfig's exec has the version {described.apiVersion!r}: {VERSIONS} are known")
        program = str(described.command)
        if "/" in program and not program.startswith("/") and folder is not None:
            program = str(folder / program)
        environment = {variable.name: variable.value for variable in described.env or ()}
        return TokenProgram(
            (program, *(described.args or ())), environment, described.apiVersion, described.installHint or ""
        )

    def run(self, deadline: Deadline) -> tuple[str, float | None]:
        """Run the program. Return its token and when that expires, in seconds since the epoch; None if it does not say.

        Raises:
            CredentialsError: there is no token.
        """
        name = self.command[0]
        info = {"apiVersion": self.api_version, "kind": "ExecCredential", "spec": {"interactive": False}}
        environment = {**os.environ, **self.environment, "KUBERNETES_EXEC_INFO": json.dumps(info)}
        try:
            found = answer_of(self.command, deadline, PROGRAM_TIMEOUT, env=environment)
        except TimeoutError as error:
            raise CredentialsError(str(error)) from None
        except OSError as error:
            raise CredentialsError(f"{name} cannot be run: {error.strerror}. {self.hint}".rstrip(". ")) from None
        if found.status:
            said = one_line(found.errors)[-300:]
            raise CredentialsError(f"{name} exited with status {found.status}: {said}".rstrip(": "))
        try:
            status = json.loads(found.output)["status"]
            token, expiry = status.get("token"), status.get("expirationTimestamp")
            expires = datetime.fromisoformat(expiry).timestamp() if expiry else None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise CredentialsError(f"{name} has printed no {self.api_version} ExecCredential") from None
        if not isinstance(token, str) or not token.isascii() or not token.isprintable() or not token:
            raise CredentialsError(f"{name} has printed no token; client certificates of programs are not used")
        return token, expires


class ProgramCredentials(httpx2.Auth):
    """The credentials of a `TokenProgram`, for an httpx2 client. Any thread. One thread runs the program for all.

    Args:
        program: prints the token.
    """

    def __init__(self, program: TokenProgram) -> None:
        self._program = program
        self._lock = threading.Lock()
        self._token = ""
        self._expires: float | None = None
        self._run: Signal | None = None
        """Set at the end of the run that is under way."""

    def sync_auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        """Add the token to a request. If the server refuses the token, run the program again, once."""
        deadline = request.extensions.get(DEADLINE) or Deadline(PROGRAM_TIMEOUT)
        token = self._current(deadline, "")
        request.headers["Authorization"] = f"Bearer {token}"
        response = yield request
        if response.status_code == 401:
            request.headers["Authorization"] = f"Bearer {self._current(deadline, token)}"
            yield request

    def _current(self, deadline: Deadline, refused: str) -> str:
        """Return a token other than the refused one."""
        while True:
            with self._lock:
                fresh = self._expires is None or self._expires - time.time() > RENEW_BEFORE
                if self._token and self._token != refused and fresh:
                    return self._token
                run, own = self._run, Signal()
                if run is None:
                    self._run = own
            if run is None:
                return self._renew(deadline, own)
            woken = threading.Event()
            with deadline.ending(woken.set):
                run.call(woken.set)
                woken.wait(min(deadline.left(), PROGRAM_TIMEOUT))
                run.forget(woken.set)
            if deadline.is_over:
                raise CredentialsError(f"{self._program.command[0]} did not answer in time")

    def _renew(self, deadline: Deadline, run: Signal) -> str:
        try:
            token, expires = self._program.run(deadline)
            with self._lock:
                self._token, self._expires = token, expires
            return token
        finally:
            with self._lock:
                self._run = None
            run.set()
