"""``dragonfly dashboard``: a web page for the pools of this user's running programs."""
