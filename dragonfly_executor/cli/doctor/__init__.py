"""What is wrong with the way to a runner: the command ``dragonfly doctor``, and what it is made of."""
