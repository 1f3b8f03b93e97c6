"""Where machines can be (reference 1.2)."""

from __future__ import annotations

from tests.support.fly_simulator.errors import ApiError, invalid, no_candidate_host

REGIONS = {
    "ams": ("Amsterdam, Netherlands", "eu"),
    "arn": ("Stockholm, Sweden", "eu"),
    "bom": ("Mumbai, India", "apac"),
    "cdg": ("Paris, France", "eu"),
    "dfw": ("Dallas, Texas (US)", "na"),
    "ewr": ("Secaucus, NJ (US)", "na"),
    "fra": ("Frankfurt, Germany", "eu"),
    "gru": ("Sao Paulo, Brazil", "sa"),
    "iad": ("Ashburn, Virginia (US)", "na"),
    "jnb": ("Johannesburg, South Africa", "af"),
    "lax": ("Los Angeles, California (US)", "na"),
    "lhr": ("London, United Kingdom", "eu"),
    "nrt": ("Tokyo, Japan", "apac"),
    "ord": ("Chicago, Illinois (US)", "na"),
    "sin": ("Singapore, Singapore", "apac"),
    "sjc": ("San Jose, California (US)", "na"),
    "syd": ("Sydney, Australia", "apac"),
    "yyz": ("Toronto, Canada", "na"),
}
"""Code to name and part of the world."""
US = ("dfw", "ewr", "iad", "lax", "ord", "sjc")


def regions_of(wanted: str) -> list[str]:
    """The regions of a prioritised list with aliases, in order.

    An unknown first entry is refused (L); what becomes of a later one is inferred: the same.
    """
    found: list[str] = []
    for entry in (part.strip() for part in wanted.split(",")):
        if entry in REGIONS:
            some: tuple[str, ...] = (entry,)
        elif entry == "any":
            some = tuple(REGIONS)
        elif entry in {"us", "usa"}:
            some = US
        else:
            some = tuple(code for code, (_, part) in REGIONS.items() if part == entry)
        if not some:
            raise invalid(f"target region {entry} not found")
        found += [code for code in some if code not in found]
    return found


def place(wanted: str, full: dict[str, ApiError | None]) -> str:
    """The first region with room.

    Args:
        wanted: as the request has it.
        full: regions without room, each with what it answers (None: the usual).

    Raises:
        ApiError: there is none.
    """
    regions = regions_of(wanted)
    for region in regions:
        if region not in full:
            return region
    raise full[regions[0]] or no_candidate_host()
