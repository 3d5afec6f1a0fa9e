"""Whether an event that fails alone is itself at fault, or the API that fails it."""

from dataclasses import dataclass

_HARDLY = 0.001


@dataclass(slots=True)
class SiteTally:
    """How many requests of a site succeeded and failed so far. Threads may add at once: it need not be exact."""

    succeeded: int = 0
    failed: int = 0


@dataclass(slots=True)
class Suspicion:
    """What is known of an event that fails alone.

    `succeeded` and `failed` are its site's totals when it came under suspicion, `seen` how many had succeeded at
    the event's last try. `alone` counts its tries, `counted` those before which others had succeeded meanwhile.
    """

    succeeded: int
    failed: int
    seen: int
    alone: int = 0
    counted: int = 0

    @classmethod
    def of(cls, tally: SiteTally) -> "Suspicion":
        """Begin with a site's totals as they are now."""
        return cls(tally.succeeded, tally.failed, tally.succeeded)

    def failed_again(self, tally: SiteTally, max_attempts: int) -> bool:
        """Note a failed try; tells whether the event itself is at fault.

        A try counts if others succeeded since the one before. It takes `max_attempts` that count, and as many
        failures in a row must be hardly possible by chance, given how often others failed meanwhile: an API that
        fails most of what it gets is not the event's fault, and one that fails all of it never is.
        """
        self.alone += 1
        self.counted += tally.succeeded > self.seen
        self.seen = tally.succeeded
        succeeded = tally.succeeded - self.succeeded
        failed = max(0, tally.failed - self.failed - self.alone)
        by_chance = (failed / (succeeded + failed)) ** self.counted if succeeded else 1.0
        return self.counted >= max_attempts and by_chance < _HARDLY
