"""``dragonfly status`` and ``dragonfly top``: the pools of this user's running programs."""
