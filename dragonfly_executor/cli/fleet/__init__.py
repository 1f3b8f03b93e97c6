"""The commands ``dragonfly list``, ``sweep`` and ``destroy``: machines of pools, seen from outside a pool."""
