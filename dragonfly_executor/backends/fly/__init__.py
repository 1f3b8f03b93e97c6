"""Runners on Fly.io machines, which are created when calls wait and destroyed when they are idle."""
