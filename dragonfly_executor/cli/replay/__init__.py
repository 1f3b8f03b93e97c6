"""``dragonfly replay``: the timeline of pools from the events that they have logged."""
