"""The backend for Fly.io machines: they are created when calls wait and destroyed when they are idle."""
