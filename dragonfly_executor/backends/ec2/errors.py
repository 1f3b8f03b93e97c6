"""Errors of the EC2 API, and what each of them means for a boot. Pure."""

from __future__ import annotations

from dragonfly_executor.errors import DragonflyError

NO_ROOM = frozenset({
    "InsufficientInstanceCapacity", "InsufficientHostCapacity", "InsufficientReservedInstanceCapacity",
    "InsufficientCapacity", "InsufficientFreeAddressesInSubnet", "InstanceLimitExceeded", "VcpuLimitExceeded",
    "MaxSpotInstanceCountExceeded", "SpotMaxPriceTooLow", "Unsupported", "MaxScheduledInstanceCapacityExceeded",
    "DedicatedHostCapacityExceeded",
})  # fmt: skip
"""Codes for no capacity, for a quota, or for a type that a zone does not have. Another type or zone may do."""
AGAIN = frozenset({
    "RequestLimitExceeded", "Throttling", "ThrottlingException", "EC2ThrottledException", "InternalError",
    "InternalFailure", "ServiceUnavailable", "Unavailable", "RequestTimeout", "ServerInternal",
    "ConcurrentCreateAccess", "RequestResourceCountExceeded",
})  # fmt: skip
"""Codes after which the same request may succeed in a moment."""
NOT_FOUND = frozenset({"InvalidInstanceID.NotFound"})
"""Codes for an instance that EC2 does not know. It may not know a new one yet."""


class EC2Error(DragonflyError):
    """A request to EC2 failed.

    Attributes:
        code: EC2's code; "" if EC2 has not answered.
        may_have_happened: True if EC2 may have carried the request out, as its answer did not arrive.
    """

    def __init__(self, message: str, code: str = "", *, may_have_happened: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.may_have_happened = may_have_happened

    @property
    def is_no_room(self) -> bool:
        """Return True if another type of instance or another zone may have room."""
        return self.code in NO_ROOM

    @property
    def is_temporary(self) -> bool:
        """Return True if the same request may succeed in a moment."""
        return self.code in AGAIN or not self.code

    @property
    def is_final(self) -> bool:
        """Return True if each later request fails in the same way: credentials, permissions, arguments."""
        return not self.is_no_room and not self.is_temporary
