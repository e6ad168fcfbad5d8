"""How long to wait before trying again: the delay doubles with every failure in a row, up to a cap.

Jitter only shortens a delay, so the cap is a promise. The random part is an argument: a decision repeats.
"""

from dataclasses import dataclass

_MAX_DOUBLINGS = 60  # beyond it a float gains nothing, and the cap has long been reached


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds; `jitter` is the largest part of a delay that chance takes away, 0 to 1."""

    first_s: float = 1.0
    cap_s: float = 300.0
    jitter: float = 0.1

    def delay_s(self, failures: int, chance: float = 0.0) -> float:
        """Before the attempt that follows so many failures in a row; 0 after none. `chance` is in [0, 1)."""
        if failures <= 0:
            return 0.0
        doubled = self.first_s * 2.0 ** min(failures - 1, _MAX_DOUBLINGS)
        return min(self.cap_s, doubled) * (1.0 - self.jitter * chance)
