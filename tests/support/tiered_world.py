"""The world of a pool with several backends: what differs there from `World`."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from dragonfly_executor import errors
from dragonfly_executor.core import actions, events
from dragonfly_executor.core.calls import Call
from dragonfly_executor.core.limits import PoolLimits
from tests.support.story import PromptStory
from tests.support.world import REQUIREMENTS, Prospects, TrackedCall, TrackedRunner, World


class TieredWorld(World):
    def __init__(self, limits: PoolLimits) -> None:
        super().__init__(limits)
        self.failed: Counter[tuple[str, int]] = Counter()
        """By kind and tier, boots that failed in a row."""
        self.passed_over: set[tuple[str, int]] = set()
        """Kinds and tiers with enough failures, as far as the pool has said no call fails for them."""
        self.tier_of: dict[int, int] = {}
        """By runner, its tier."""
        self.spent_on: Counter[int] = Counter()
        """By tier, machine-seconds of the runners that are gone."""

    def price_on(self, tier: int) -> float | None:
        return self.limits.tiers[tier].caps.price

    # -- boots ---------------------------------------------------------------------------------------------------------

    def _check_room(self, action: actions.Boot) -> None:
        limits = self.limits.tiers[action.tier]
        self.tier_of[action.runner_id] = action.tier
        nodes = [node for node in self.nodes.values() if node.tier == action.tier]
        boots = sum(node.boots for node in nodes) + sum(self.tier_of[i] == action.tier for i in self.hung)
        assert boots <= limits.max_concurrent_boots, "more boots than the backend can run at once"
        assert limits.max is None or len(nodes) <= limits.max, "more runners than the backend may have"
        assert self.can_have(action.kind, action.tier), "a boot on a backend whose runners cannot take the calls"
        assert not self.is_paid_out(action.tier), "a boot on a backend whose budget is used up"

    def can_have(self, kind: str, tier: int) -> bool:
        """Whether a runner of a backend may be able to run a call of this kind."""
        required = REQUIREMENTS.get(kind)
        if required is None:
            return True
        sorts = [limits.capacities for limits in self.limits.tiers]
        can = [not capacities or any(required.fit(each) for each in capacities) for capacities in sorts]
        return can[tier] or not any(can)

    def _boot_fails(self, node: TrackedRunner, error: Exception | None, *, counts: bool = True) -> None:
        key = node.kind, node.tier
        self.failed[key] += counts
        if self.failed[key] >= self.limits.max_boot_failures or (isinstance(error, errors.BootError) and error.final):
            self.passed_over.add(key)

    def _count_boots(self, event: events.Event, node: TrackedRunner | None) -> None:
        if node is not None and not node.up and not node.stopped and isinstance(event, events.BootSucceeded):
            self.failed[node.kind, node.tier] = 0
            self.passed_over.discard((node.kind, node.tier))
        super()._count_boots(event, node)

    def _check_boot_error(self, account: TrackedCall, outcome: errors.BootError, *, flying: bool) -> None:
        if isinstance(self.last_event, events.BootFailed) and account.call.attempt in account.attempts_begun:
            return  # nonsense, but survived: the boot failed of a runner that was up already, and had the call
        prospects = self.given_up.get(account.call.id) or self._prospects(account.call.kind)
        assert prospects.is_over, "another backend could boot"
        assert not prospects.is_up, "a runner is up"

    def _prospects(self, kind: str) -> Prospects:
        """Return whether each backend that can have such runners has failed, or hangs, or has no money."""
        is_over = True
        for tier, limits in enumerate(self.limits.tiers):
            hung = sum(self.tier_of[runner_id] == tier for runner_id in self.hung)
            has_failed = (kind, tier) in self.passed_over or hung >= limits.max_concurrent_boots
            is_over = is_over and (has_failed or self.is_paid_out(tier) or not self.can_have(kind, tier))
        return replace(super()._prospects(kind), is_over=is_over)

    # -- what is spent -------------------------------------------------------------------------------------------------

    def _note(self, event: events.Event) -> None:
        node = self.nodes.get(getattr(event, "runner_id", 0))
        before = self.used
        super()._note(event)
        if node is not None:
            self.spent_on[node.tier] += self.used - before  # type: ignore[assignment]

    def seconds_on(self, tier: int) -> float:
        return self.spent_on[tier] + sum(self.exists(node) for node in self.nodes.values() if node.tier == tier)

    def is_paid_out(self, tier: int) -> bool:
        """Whether the cap on a backend's time is reached, or so near that nobody can say."""
        cap = self.limits.tiers[tier].caps.machine_seconds
        return cap is not None and self.seconds_on(tier) >= cap - 1e-6

    def _check_budget_is_used_up(self, call: Call) -> None:
        tiers = [tier for tier in range(len(self.limits.tiers)) if self.can_have(call.kind, tier)]
        assert self.may_be_spent or self.was_spent or all(map(self.is_paid_out, tiers)), "no budget is used up"

    def _warn(self, action: actions.Warn) -> None:
        assert action.text
        for tier, limits in enumerate(self.limits.tiers):
            if f"the {limits.name} backend's budget" in action.text:
                assert self.is_paid_out(tier)
                for node in self.nodes.values():
                    node.leaving |= node.tier == tier and node.up
            if f"the {limits.name} backend" in action.text:
                return
        super()._warn(action)

    # -- a smaller pool ------------------------------------------------------------------------------------------------

    def _least_loaded(self) -> list[int]:
        order = super()._least_loaded()
        return sorted(order, key=lambda runner_id: -self.nodes[runner_id].tier)

    def _spare(self, booting: Counter[str], sent_before: set[int]) -> None:
        # `World` knows the slots of one backend only.
        hints = {kind: 3 * count for kind, count in booting.items()}
        super()._spare(Counter(hints), sent_before)


class TieredStory(PromptStory, TieredWorld):
    """A story of a pool with several backends."""
