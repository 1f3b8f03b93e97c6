"""Runners on hosts that can be reached by SSH, with nothing installed there but Python."""
