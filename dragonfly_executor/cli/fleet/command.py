"""``dragonfly list``, ``dragonfly sweep`` and ``dragonfly destroy``: their command lines, and their output for Fly."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dragonfly_executor import errors
from dragonfly_executor.cli import terminal

if TYPE_CHECKING:
    from dragonfly_executor.backends.fly.sweep import FoundMachine
    from dragonfly_executor.cli.fleet.fleet import Fleet
    from dragonfly_executor.cli.fleet.machine_row import MachineRow

NO_PROOF = "Fly's list may lag behind: look again, or run `fly machine list`."


def add_to(commands: Any) -> None:
    """Add the commands to the parser of ``dragonfly``."""
    for name, what, run in (
        ("list", "show the nodes that pools have booted, their owners and their costs", _list),
        ("sweep", "destroy the nodes whose pools are gone", _sweep),
        ("destroy", "destroy nodes that any pool has booted", _destroy),
    ):
        description = f"{what[0].upper()}{what[1:]}."
        parser = commands.add_parser(name, help=what, description=description, epilog=EPILOG)
        if name == "destroy":
            parser.add_argument("machines", nargs="*", metavar="NODE", help="a node's ID, or its name")
            parser.add_argument("--all", action="store_true", help="all of the app's, or all that the backend lists")
        parser.add_argument(
            "--backend", default="fly", metavar="NAME", help="fly, or the name of an installed backend; default fly"
        )
        parser.add_argument(
            "--set", action="append", metavar="KEY=VALUE", dest="settings", help="an argument of an installed backend"
        )
        parser.add_argument("--app", help="the Fly app; default FLY_APP_NAME, otherwise all apps in the journal")
        parser.add_argument("--journal", metavar="DIR", help="the folder of the journal of this machine's pools")
        parser.add_argument("--json", action="store_true", help="print one JSON document instead of lines")
        if name != "list":
            parser.add_argument("--yes", action="store_true", help="do not ask")
        parser.set_defaults(run=_runner(run, parser))


EPILOG = (
    "For Fly it needs dragonfly-executor[fly]. The token is taken from FLY_API_TOKEN, the API's address from "
    "FLY_FLAPS_BASE_URL."
)


def _runner(
    run: Callable[[argparse.Namespace, Fleet], int], parser: argparse.ArgumentParser
) -> Callable[[argparse.Namespace], int]:
    def checked(options: argparse.Namespace) -> int:
        """Run the command. Return the exit status: 0 if all is well, 1 if a step failed. A usage error exits with 2."""
        if options.command == "destroy" and bool(options.machines) == options.all:
            parser.error("name the nodes that are to be destroyed, or give --all")
        if options.backend != "fly":
            return _run_installed(options, parser)
        if options.settings:
            parser.error("--set is for installed backends, and this is --backend fly")
        try:
            # Imported late, as this loads httpx, which the other commands do not need.
            from dragonfly_executor.backends.fly.settings import options as spelled
            from dragonfly_executor.cli.fleet.fleet import Fleet

            fleet = Fleet(options.app, options.journal, spelled("app", "journal"))
        except ImportError:
            parser.error("this needs httpx: pip install 'dragonfly-executor[fly]'")
        except (ValueError, OSError) as error:
            parser.error(str(error))
        if fleet.without:
            print(f"dragonfly: {fleet.without}", file=sys.stderr)
        try:
            status = run(options, fleet)
            for app, trouble in fleet.refused.items():
                print(f"dragonfly: {app} was left out: {trouble}", file=sys.stderr)
            return max(status, bool(fleet.refused))
        except BrokenPipeError:
            raise  # the reader of our output is gone; `main` handles that
        except (errors.DragonflyError, OSError) as error:
            print(f"dragonfly: {error}", file=sys.stderr)
            return 1

    return checked


def _run_installed(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from dragonfly_executor.cli.fleet.installed import Nodes

    if options.app is not None:
        parser.error(f"--app is for --backend fly, and this is --backend {options.backend}")
    if options.journal == "":
        parser.error("--journal is empty: is a variable not set?")
    try:
        nodes = Nodes(options.backend, options.settings or (), options.journal)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    try:
        return nodes.run(options)
    except BrokenPipeError:
        raise
    except (errors.DragonflyError, OSError) as error:
        print(f"dragonfly: {error}", file=sys.stderr)
        return 1


# -- the commands ------------------------------------------------------------------------------------------------------


def _list(options: argparse.Namespace, fleet: Fleet) -> int:
    status = 0
    try:
        found = fleet.look()
    except errors.DragonflyError as error:
        # Show at least the journal: users run this when something is wrong.
        print(f"dragonfly: {error}", file=sys.stderr)
        found, status = fleet.written_down(), 1
    sights = _sights(fleet, found)
    if options.json:
        _print_json(machines=[sight.record() for sight in sights])
        return status
    if status and not sights:
        print("The journal on this machine has no boots.")
    else:
        _show(sights)
    gone = sum(sight.owner == "gone" and sight.listed for sight in sights)
    if gone:
        print(f"{gone} of them left behind: `dragonfly sweep` destroys them.")
    return status


def _sweep(options: argparse.Namespace, fleet: Fleet) -> int:
    from dragonfly_executor.backends.owner import Liveness

    found = fleet.look()
    chosen = [(app, one) for app, one in found if one.liveness is Liveness.GONE and one.machine is not None]
    if not options.json and not chosen:
        print(f"No machines are left behind that this command knows of. {NO_PROOF}")
    return _destroy_chosen(options, fleet, chosen)


def _destroy(options: argparse.Namespace, fleet: Fleet) -> int:
    unknown: list[str] = []
    if options.all:
        chosen = [(app, one) for app, one in fleet.look() if one.machine is not None]
        if not options.json and not chosen:
            print(f"There are none. {NO_PROOF}")
    else:
        chosen, unknown = fleet.find(options.machines)
    for word in unknown:
        text = "no pool has booted such a machine; `fly machine destroy` destroys other machines"
        print(f"dragonfly: {word}: {text}", file=sys.stderr)
    return max(_destroy_chosen(options, fleet, chosen), bool(unknown))


def _destroy_chosen(options: argparse.Namespace, fleet: Fleet, chosen: list[tuple[str, FoundMachine]]) -> int:
    if chosen and not options.yes and not _may_destroy(_sights(fleet, chosen)):
        print("dragonfly: nothing was destroyed", file=sys.stderr)
        return 1
    swept = fleet.destroy(chosen)
    left = [{"name": one.name, "why": why} for one, why in swept.left]
    if options.json:
        _print_json(destroyed=[one.name for one in swept.destroyed], left=left)
    else:
        for one in swept.destroyed:
            terminal.show(f"destroyed {one.name}")
        for one, why in swept.left:
            terminal.show(f"NOT destroyed {one.name}: {why}")
    return 1 if left else 0


def _may_destroy(sights: list[MachineRow]) -> bool:
    """Show the machines on stderr, so that they do not get into JSON on stdout, and ask for confirmation."""
    _show(sights, file=sys.stderr)
    return terminal.confirm_destruction(len(sights), "machines", sum(sight.owner == "alive" for sight in sights))


# -- what is shown -----------------------------------------------------------------------------------------------------


def _sights(fleet: Fleet, found: list[tuple[str, FoundMachine]]) -> list[MachineRow]:
    from dragonfly_executor.cli.fleet.machine_row import MachineRow

    # Fly's clock dates the machines that Fly lists, and this machine's clock dates the entries that only the journal
    # has.
    return [MachineRow.of(one, app, fleet.now(app), time.time()) for app, one in found]


def _show(sights: list[MachineRow], file: Any = None) -> None:
    from dragonfly_executor.backends.fly.prices import PRICES
    from dragonfly_executor.cli.fleet.machine_row import HEAD

    if not sights:
        print(f"No machines. {NO_PROOF}", file=file)
        return
    rows = [sight.row() for sight in sights]
    terminal.show(*terminal.table(HEAD, rows, terminal.width_of(file or sys.stdout)), file=file)
    print(f"Costs are estimates, by prices as of {PRICES.as_of}, as if started all the time.", file=file)


def _print_json(**said: Any) -> None:
    from dragonfly_executor.backends.fly.prices import PRICES

    print(json.dumps({"backend": "fly", "prices_as_of": PRICES.as_of, **said}, indent=2))
