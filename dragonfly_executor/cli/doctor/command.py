"""``dragonfly doctor``: its command line and its output."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dragonfly_executor.cli import terminal
from dragonfly_executor.cli.arguments import seconds
from dragonfly_executor.cli.doctor.examine import Finding, examine

if TYPE_CHECKING:
    from dragonfly_executor.backends.base import Backend

OPTIONS = {
    "ssh": ("config", "known_hosts", "key_filename", "requirements"),
    "fly": ("app", "image", "region", "parent_address", "boot"),
}
"""The options that only one backend has."""
MARKS = {True: "ok", False: "FAILED", None: "-"}


def add_to(commands: Any) -> None:
    """Add the command to the parser of ``dragonfly``."""
    text = "boot one runner (on each host), and report its steps, its resources and the speed of its link"
    parser = commands.add_parser("doctor", help=text, description=f"{text.capitalize()}.")
    own = ", ".join(PLACES)
    parser.add_argument(
        "--backend", default="local", metavar="NAME", help=f"{own}, or the name of an installed one; default local"
    )
    parser.add_argument(
        "--set", action="append", metavar="KEY=VALUE", dest="settings", help="an argument of an installed backend"
    )
    parser.add_argument("--python", help="the interpreter there; default: one of this minor version")
    parser.add_argument("--timeout", type=seconds, help="seconds for each boot; default: the backend's own")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of lines")
    ssh = parser.add_argument_group("for --backend ssh")
    ssh.add_argument("hosts", nargs="*", metavar="HOST", help="[user@]host[:port], or a name from ~/.ssh/config")
    ssh.add_argument("--config", metavar="FILE", help="instead of ~/.ssh/config")
    ssh.add_argument("--known-hosts", metavar="FILE", help="instead of your own and the system's")
    ssh.add_argument("--key-filename", metavar="FILE", help="a private key to try first")
    ssh.add_argument("--requirements", metavar="FILE", help="packages that are installed there")
    fly = parser.add_argument_group("for --backend fly")
    fly.add_argument("--app", help="default FLY_APP_NAME")
    fly.add_argument("--image", help="the image of the machines; default FLY_IMAGE_REF")
    fly.add_argument("--region", help="one, or several with commas between; default FLY_REGION")
    fly.add_argument("--parent-address", metavar="HOST[:PORT]", help="default FLY_PRIVATE_IP")
    fly.add_argument("--boot", action="store_true", default=None, help="also boot a machine, which costs a little")
    parser.set_defaults(run=lambda options: run(options, parser))


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Run the checks, and return the exit status: 0 if all is well, 1 if a check failed. A usage error exits with 2."""
    try:
        _refuse_foreign(options)
        places = PLACES.get(options.backend, _installed)(options)
    except (ImportError, ValueError, OSError) as error:
        parser.error(str(error))
    report: dict[str, list[dict[str, Any]]] = {}
    well = True
    with _warnings_shown():
        for name, findings in places:
            told = list(findings) if options.json else list(_print(name, findings))
            well = well and all(finding.ok is not False for finding in told)
            report[name] = [{**finding._asdict(), "figures": dict(finding.figures)} for finding in told]
    if options.json:
        print(json.dumps({"backend": options.backend, "ok": well, "hosts": report}, indent=2))
    return 0 if well else 1


def _refuse_foreign(options: argparse.Namespace) -> None:
    """Raise ValueError for an option of another backend, as the user has probably forgotten ``--backend``."""
    if options.settings and options.backend in PLACES:
        raise ValueError(f"--set is for backends of other packages, and this is --backend {options.backend}")
    for backend, names in OPTIONS.items():
        given = [name for name in names if getattr(options, name) is not None and backend != options.backend]
        if given:
            option = f"--{given[0].replace('_', '-')}"
            raise ValueError(f"{option} is for --backend {backend}, and this is --backend {options.backend}")


def _print(name: str, findings: Iterable[Finding]) -> Iterable[Finding]:
    """Print each finding as soon as it is known, and yield it. A boot may take a while."""
    width = terminal.width_of(sys.stdout)
    terminal.show(name)
    for finding in findings:
        lines = terminal.beside(f"  {finding.name:<14} {MARKS[finding.ok]:<7} ", finding.text, width)
        if finding.advice and finding.ok is False:
            lines += terminal.beside(f"{'':<24} → ", finding.advice, width)
        terminal.show(*lines)
        yield finding


class _WarningHandler(logging.Handler):
    """A log handler that prints warnings, except those that a finding repeats."""

    def emit(self, record: logging.LogRecord) -> None:
        if not hasattr(record, "dragonfly_boot_failed"):
            print(f"dragonfly: {record.getMessage()}", file=sys.stderr)


@contextmanager
def _warnings_shown() -> Iterator[None]:
    """Show warnings on stderr while in the block, unless the program has configured logging."""
    logger = logging.getLogger("dragonfly_executor")
    if logger.hasHandlers():
        yield
        return
    handler = _WarningHandler(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


Places = Sequence[tuple[str, Iterable[Finding]]]


def _local(options: argparse.Namespace) -> Places:
    from dragonfly_executor.backends.local import LocalBackend

    if options.hosts:
        raise ValueError("--backend local takes no hosts; did you mean --backend ssh?")
    return [("this machine", examine(LocalBackend(python=options.python), boot_timeout=options.timeout))]


def _ssh(options: argparse.Namespace) -> Places:
    from dragonfly_executor.backends.ssh.backend import SSHBackend

    if not options.hosts:
        raise ValueError("--backend ssh needs at least one host")
    # One backend per host: a backend with several hosts goes on to the next host and hides a failure of the first.
    backends = [SSHBackend([host], python=options.python, **_ways(options)) for host in options.hosts]
    examinations = [examine(backend, boot_timeout=options.timeout) for backend in backends]
    return list(zip(options.hosts, examinations, strict=True))


def _ways(options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments for `SSHBackend` that the user has given."""
    given = {
        "config": options.config,
        "known_hosts": options.known_hosts,
        "key_filename": options.key_filename,
        "requirements": options.requirements,
    }
    return {name: value for name, value in given.items() if value is not None}


def _fly(options: argparse.Namespace) -> Places:
    from dragonfly_executor.cli.doctor.fly import CommandLineSettings, FlyChecks, for_boot

    if options.hosts:
        raise ValueError("--backend fly takes no hosts; --app says where machines are booted")
    try:
        import dragonfly_executor.backends.fly.client  # noqa: F401  # fail now, as a usage error, and not half way
    except ImportError as error:
        raise ImportError("--backend fly needs httpx: pip install 'dragonfly-executor[fly]'") from error
    checks = FlyChecks(CommandLineSettings(options.app, options.image, options.region, options.parent_address))

    def findings() -> Iterable[Finding]:
        """Yield findings without a boot, then those of a boot if the user asked for one and no check has failed."""
        well = True
        for finding in checks.run():
            # Orphaned machines do not prevent a boot.
            well = well and (finding.ok is not False or finding.name == "machines")
            yield finding
        if options.boot and well:
            yield from examine(checks.backend(python=options.python), boot_timeout=options.timeout, advise=for_boot)
        elif options.boot:
            yield Finding("boot", None, "not reached")

    return [(f"Fly, app {checks.app or '?'}", findings())]


def _installed(options: argparse.Namespace) -> Places:
    from dragonfly_executor.cli import plugins

    point = plugins.find(options.backend, PLACES)
    if options.hosts or options.python:
        given = "hosts" if options.hosts else "--python"
        raise ValueError(f"--backend {options.backend} takes no {given}; give its arguments as --set KEY=VALUE")
    backend = plugins.make(point, plugins.read_settings(options.settings or ()))
    return [(options.backend, _checked(backend, options.timeout))]


def _checked(backend: Backend, boot_timeout: float | None) -> Iterable[Finding]:
    """Yield the backend's own checks, then those of a boot if none has failed."""
    well = True
    for check in backend.checks():
        well = well and check.ok
        yield Finding(check.name, check.ok, check.text, check.advice)
    if well:
        yield from examine(backend, boot_timeout=boot_timeout)
    else:
        yield Finding("boot", None, "not reached")


PLACES: dict[str, Callable[[argparse.Namespace], Places]] = {"local": _local, "ssh": _ssh, "fly": _fly}
"""By backend: a function that returns the places to examine, with findings. Only these functions boot runners."""
