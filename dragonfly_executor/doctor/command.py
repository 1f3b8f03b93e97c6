"""``dragonfly doctor``: the command line, and how findings look there."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from dragonfly_executor.doctor.examine import Finding, examine

if TYPE_CHECKING:
    from dragonfly_executor.backends.base import Backend

MARKS = {True: "ok", False: "FAILED", None: "-"}


def add_to(commands: Any) -> None:
    """Add the command to the parser of ``dragonfly``."""
    text = "boot one runner on each host, say how far it came, what is there, and how fast the way is"
    parser = commands.add_parser("doctor", help=text, description=text.capitalize() + ".")
    where = "for --backend ssh: [user@]host[:port], or a name from ~/.ssh/config"
    parser.add_argument("hosts", nargs="*", metavar="HOST", help=where)
    parser.add_argument("--backend", choices=sorted(PLACES), default="local")
    parser.add_argument("--config", metavar="FILE", help="for --backend ssh: instead of ~/.ssh/config")
    parser.add_argument("--known-hosts", metavar="FILE", help="for --backend ssh: instead of your own and the system's")
    parser.add_argument("--key-filename", metavar="FILE", help="for --backend ssh: a private key to try first")
    parser.add_argument("--requirements", metavar="FILE", help="for --backend ssh: packages that are installed there")
    parser.add_argument("--python", help="the interpreter there; default: one of this minor version")
    parser.add_argument("--timeout", type=_seconds, help="seconds for each boot; default: the backend's own")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of lines")
    parser.set_defaults(run=lambda options: run(options, parser))


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Exit status: 0 where all is well, 1 where something failed. Wrong usage ends with 2."""
    try:
        places = PLACES[options.backend](options)
    except (ImportError, ValueError) as error:
        parser.error(str(error))
    report: dict[str, list[dict[str, Any]]] = {}
    well = True
    for name, backend in places:
        findings = examine(backend, boot_timeout=options.timeout)
        told = list(findings) if options.json else list(_print(name, findings))
        well = well and all(finding.ok is not False for finding in told)
        report[name] = [{**finding._asdict(), "figures": dict(finding.figures)} for finding in told]
    if options.json:
        print(json.dumps({"backend": options.backend, "ok": well, "hosts": report}, indent=2))
    return 0 if well else 1


def _print(name: str, findings: Iterable[Finding]) -> Iterable[Finding]:
    """Print each finding as soon as it is there: a boot may take its time."""
    print(name)
    for finding in findings:
        text = finding.text.replace("\n", "\n" + " " * 25)
        print(f"  {finding.name:<14} {MARKS[finding.ok]:<7} {text}")
        if finding.advice and finding.ok is False:
            print(f"  {'':<14} {'':<7} → {finding.advice}")
        sys.stdout.flush()
        yield finding


Places = Sequence[tuple[str, "Backend"]]


def _local(options: argparse.Namespace) -> Places:
    from dragonfly_executor.backends.local import LocalBackend

    if options.hosts:
        raise ValueError("--backend local takes no hosts; did you mean --backend ssh?")
    return [("this machine", LocalBackend(python=options.python))]


def _ssh(options: argparse.Namespace) -> Places:
    from dragonfly_executor.backends.ssh.backend import SSHBackend

    if not options.hosts:
        raise ValueError("--backend ssh needs at least one host")
    # One each: with several the backend would go on to the next, and nobody would hear of the first.
    return [(host, SSHBackend([host], python=options.python, **_ways(options))) for host in options.hosts]


def _ways(options: argparse.Namespace) -> dict[str, Any]:
    """What else an `SSHBackend` is told, where the user has said it."""
    given = {
        "config": options.config,
        "known_hosts": options.known_hosts,
        "key_filename": options.key_filename,
        "requirements": options.requirements,
    }
    return {name: value for name, value in given.items() if value is not None}


PLACES: dict[str, Callable[[argparse.Namespace], Places]] = {"local": _local, "ssh": _ssh}
"""By backend: the places to examine, each with a backend that boots there and nowhere else."""


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value
