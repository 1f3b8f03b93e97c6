"""The parts of the module `pickle` that a runner uses.

`pickle` imports `re`, which takes longer than all that a slot needs to open a call. If Python has its pickler in C,
the names here are the same objects.
"""

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

__all__ = ["PickleBuffer", "PickleError", "Pickler", "PicklingError", "Unpickler", "UnpicklingError", "dumps", "loads"]

if TYPE_CHECKING:
    from pickle import PickleBuffer, PickleError, Pickler, PicklingError, Unpickler, UnpicklingError, dumps, loads
else:
    try:
        from _pickle import PickleBuffer, PickleError, Pickler, PicklingError, Unpickler, UnpicklingError, dumps, loads
    except ImportError:
        from pickle import PickleBuffer, PickleError, Pickler, PicklingError, Unpickler, UnpicklingError, dumps, loads
