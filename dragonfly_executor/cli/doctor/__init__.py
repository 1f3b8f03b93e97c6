"""The command ``dragonfly doctor``: boots one runner and checks each step."""
