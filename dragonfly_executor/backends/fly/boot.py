"""The boot of one machine: its label, its journal entry, its creation, and the cleanup if that fails."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from typing import Any

# A machine that was created needs all modules that are imported here: if an import failed later, it was orphaned.
from dragonfly_executor.backends.background_sweep import BackgroundSweeper
from dragonfly_executor.backends.base import BootRequest
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.fly import sweep  # noqa: F401
from dragonfly_executor.backends.fly.boot_deadline import FlyBootDeadline
from dragonfly_executor.backends.fly.client import MachinesAPI
from dragonfly_executor.backends.fly.creation import MachineCreation, wait_for_turn
from dragonfly_executor.backends.fly.journal import FlyEntry
from dragonfly_executor.backends.fly.machine_config import MachineSettings, MachineTemplate
from dragonfly_executor.backends.fly.machines import FlyMachine
from dragonfly_executor.backends.fly.node import FlyNode
from dragonfly_executor.backends.fly.sizes import capacity_of
from dragonfly_executor.backends.journal_writer import JournalWriter
from dragonfly_executor.backends.label import HOLD_FOR, OwnerLabel, node_name
from dragonfly_executor.backends.owner import Owner
from dragonfly_executor.errors import BootError
from dragonfly_executor.transport.tcp import join_address

logger = logging.getLogger("dragonfly_executor")

MARGIN = 300.0
"""Seconds by which the clocks of the parent, of Fly and of a sweeping host may differ."""
UNDO_TIMEOUT = 20.0
"""Seconds for destroying the machine of a failed boot."""
GIVEN_UP_TIMEOUT = 1.5
"""Seconds for destroying the machine of a cancelled boot, which must end within 2 s. The journal keeps the rest."""
UNDO_SHARE = 0.2  # the largest share of the boot timeout for that
FIRST_SWEEP_TIMEOUT = 10.0
"""Seconds for the sweep beside the first boot. The boot does not wait for all of it."""


class MachineBoot:
    """The boot of one machine.

    Args:
        request: the pool's.
        settings: the backend's.
        api: the machines of the app.
        records: the journal.
        sweeps: the background sweep.
        is_recorded: whether there is a journal.
    """

    def __init__(
        self,
        request: BootRequest,
        settings: MachineSettings,
        api: MachinesAPI,
        records: JournalWriter[FlyEntry],
        sweeps: BackgroundSweeper,
        *,
        is_recorded: bool,
    ) -> None:
        self._request = request
        self._settings = settings
        self._api = api
        self._records = records
        self._sweeps = sweeps
        self._is_recorded = is_recorded
        self._template = self._sized()

    def run(self) -> FlyNode:
        """Create the machine. Returns while the machine starts.

        Raises:
            BootError: see `FlyBackend.boot`.
        """
        request, template, regions = self._request, self._template, self._settings.regions
        # Reserve a part of the timeout for destroying the machine of a create request with unknown outcome.
        deadline = FlyBootDeadline(request.timeout - min(UNDO_TIMEOUT, UNDO_SHARE * request.timeout), request)
        with self._api:
            wait_for_turn(self._api, deadline)
            # Not before the turn has come, as the times in the journal and on the machine count from here.
            label = self._label()
            name = node_name(request.parent.pool)
            entry = self._journaled(name, label)
            written = label.encode()

            def make_body(region: str | None) -> Mapping[str, Any]:
                """Return the body of the create request for a region."""
                parent = request.parent._replace(until=int(time.time() + request.timeout))
                return template.body(name, region, parent.encode(), written)

            creation = MachineCreation(self._api, name, label.boot, make_body, regions, str(template.guest))
            try:
                machine = creation.run(deadline)
            except BaseException:
                self._undo(creation, entry)
                raise
            return self._node(machine, entry, creation)

    def _sized(self) -> MachineTemplate:
        """Return the template with the size that the waiting calls require."""
        required, settings = self._request.requires, self._settings
        if required is None:
            return settings.template
        guest = settings.sizes.choose(required, settings.prices)
        if guest is not None:
            template = settings.template._replace(guest=guest)
            if required.fit(capacity_of(template.size(), settings.labels)):
                return template
        raise BootError(f"no machine of this backend can have what the calls require: {required}", "create", final=True)

    def _label(self) -> OwnerLabel:
        request, limits = self._request, self._settings.limits
        lifetime, hold = request.timeout + limits.max_lifetime + MARGIN, int(request.timeout + HOLD_FOR)
        expires, me, boot = int(time.time() + lifetime), Owner.me(), os.urandom(16).hex()
        return OwnerLabel(boot, request.parent.pool, me, expires, int(lifetime), me.app, hold)

    def _journaled(self, name: str, label: OwnerLabel) -> FlyEntry:
        """Write the boot into the journal, before Fly gets the create request."""
        access, now = self._api.access, time.time()
        region, guest = ",".join(self._settings.regions), self._template.guest.encode()
        entry = FlyEntry(name, access.app, access.host, label, now, float(label.expires), None, region, guest)
        self._records.begin(entry)
        return entry

    def _node(self, machine: FlyMachine, entry: FlyEntry, creation: MachineCreation) -> FlyNode:
        request, settings, records, sweeps = self._request, self._settings, self._records, self._sweeps
        known = entry._replace(machine_id=machine.id or None, region=machine.region or entry.region)
        records.complete(known, machine)
        address = request.parent.address or join_address(settings.address.dialed, settings.address.port)
        node = FlyNode(
            self._api,
            machine,
            address,
            forget=lambda: records.forget(known),
            abandon=lambda: records.abandon(known, known.name),
            find=creation.find,
            left=sweeps.node_left,
            is_recorded=self._is_recorded,
        )
        sweeps.node_came(FIRST_SWEEP_TIMEOUT)
        sweeps.wait_a_moment(request.given_up, request.dialed_in)
        node.shares_image = settings.shares_image
        # The machine counts from its start, which is a little later.
        lifetime = settings.limits.max_lifetime
        request.ending(lifetime, f"the max_lifetime of its machine, {lifetime:g} s, had passed")
        size = self._template.size()
        node.capacity = capacity_of(size, settings.labels)
        regions = [machine.region] if machine.region else settings.regions
        node.price = settings.prices.per_second(machine.guest or size, regions)
        return node

    def _undo(self, creation: MachineCreation, entry: FlyEntry) -> None:
        """Clean up after a failed boot: destroy the machine that it may have created, or mark its entry abandoned."""
        if not creation.outcome_unknown:
            self._records.forget(entry)
            return
        deadline = Deadline(UNDO_TIMEOUT, self._request.given_up)
        # The create request may still be in progress. Waiting some seconds for its machine saves a later sweep.
        was_cut = deadline.is_cancelled
        why = creation.undo(deadline)
        if why and deadline.is_cancelled:
            why = creation.undo(Deadline(GIVEN_UP_TIMEOUT), may_come_yet=was_cut)
        if not why:
            self._records.forget(entry)
            return
        then = self._records.abandon(entry, entry.name)
        logger.warning("the boot failed, but Fly may have created machine %s: %s. %s", entry.name, why, then)
