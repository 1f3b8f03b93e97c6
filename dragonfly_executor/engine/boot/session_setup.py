"""Builds the WELCOME and SETUP frames of runners."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dragonfly_executor.protocol import handshake
from dragonfly_executor.protocol.frames import SETUP_HEAD, ScriptImport
from dragonfly_executor.protocol.versions import versions_like
from dragonfly_executor.transport.codecs import codec_bits, installed
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.backends.base import Node
    from dragonfly_executor.engine.context import EngineContext
    from dragonfly_executor.engine.runner_connection import RunnerLink
    from dragonfly_executor.engine.tier_settings import TierSettings


class SessionSetup:
    """The pool's settings for the runners of one tier, and the set-up of their slots.

    Args:
        engine: has the options, the codec and the outputs.
        tier: has the number of slots, if the node does not name one, and the parent's ``__main__`` for remote runners.
        initializer: the encoded call that each slot runs first.
        warn: logs a warning.
    """

    def __init__(
        self,
        engine: EngineContext,
        tier: TierSettings,
        initializer: bytes,
        warn: Callable[[str], object],
    ) -> None:
        self._warn = warn
        self._told: set[tuple[str, str]] = set()
        self._options = engine.options
        self._outputs = engine.outputs
        self._tier = tier
        self._codec = engine.codec
        self._initializer = initializer
        self._setup = engine.codec.setup()
        self._compression = () if engine.options.compression is None else installed()
        file_snapshot = tier.file_snapshot
        if file_snapshot is not None:
            main, stays = file_snapshot.main, file_snapshot.sends_nothing
            self._setup_elsewhere = engine.codec.setup_elsewhere(main)
            self._setup_in_image = engine.codec.setup_elsewhere(main, same_image=True, same_directory=stays)

    def _setup_for(self, node: Node) -> bytes:
        if node.shares_disk:
            return self._setup
        return self._setup_in_image if node.shares_image else self._setup_elsewhere

    def _encode_setup(self, setup: bytes, codecs: Iterable[str]) -> bytes:
        # If no call has needed the script yet, slots import it only when a call needs it.
        script = ScriptImport.IMPORT if self._codec.needs_script else ScriptImport.SKIP
        head = SETUP_HEAD.pack(self._options.max_payload, len(setup), script, codec_bits(codecs))
        return head + setup + self._initializer

    def admit(self, runner: RunnerLink, hello: handshake.Hello) -> None:
        """Admit a runner: set its number of slots, and send WELCOME and SETUP. Remote runners need `file_snapshot`."""
        self._compare(runner, hello)
        options, tier, shares_disk = self._options, self._tier, runner.node.shares_disk
        output, log_level = self._outputs.agent_settings(shares_disk=shares_disk)
        node = runner.node
        wanted = node.slots or tier.max_concurrency or node.default_slots or tier.backend.default_slots()
        slots = wanted or hello.versions.cpus
        session = handshake.welcome(
            lease=options.lease,
            setup_timeout=tier.boot_timeout,
            slots=slots,
            calls_per_slot=options.max_tasks_per_child or 0,
            output=output,
            log_level=log_level,
            limit_threads=options.limit_threads,
            divide_gpus=options.divide_gpus,
        )
        codecs = [name for name in hello.codecs if name in self._compression]
        runner.compress_by(codecs)
        runner.welcome(session, self._encode_setup(self._setup_for(runner.node), codecs), slots, log_level)

    def _compare(self, runner: RunnerLink, hello: handshake.Hello) -> None:
        """Warn of versions that differ but are compatible, once for each host and difference."""
        text = "; ".join(handshake.differences(versions_like(hello.versions), hello.versions))
        host = runner.node.host
        if text and (host, text) not in self._told:
            self._told.add((host, text))
            self._warn(f"{runner.name} has other versions than the parent, so calls may behave differently: {text}")
