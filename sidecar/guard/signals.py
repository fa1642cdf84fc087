"""`signal` without its enumerations: the module below it, whose numbers are plain, and 40 KiB less of the guard."""

from sidecar.tuples import TYPE_CHECKING

if TYPE_CHECKING:
    import signal as signal
else:
    import _signal as signal  # noqa: F401
