"""How many requests there may be in a minute: counted in the service's Redis, so that several
processes count together; in this process while Redis is away."""

from __future__ import annotations

import math
import time

import structlog
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage, Storage, storage_from_string
from limits.strategies import FixedWindowRateLimiter

from workers.settings import ServiceSettings

_AGAIN = 10.0  # seconds after which Redis is tried again
_SECONDS = 1.0  # that it may take
log = structlog.get_logger("sandbox.api")


class Limiter:
    """Counts in windows of a minute."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._shared = FixedWindowRateLimiter(_redis(settings.broker))
        self._own = FixedWindowRateLimiter(MemoryStorage())
        self._away_until = 0.0
        self.requests = RateLimitItemPerMinute(settings.api_rate, namespace="sandbox-requests")
        self.failures = RateLimitItemPerMinute(settings.api_failures, namespace="sandbox-failures")

    def hit(self, item: RateLimitItemPerMinute, who: str) -> int:
        """Count one; 0, or the seconds until there may be another."""
        return self._ask(item, who, count=True)

    def full(self, item: RateLimitItemPerMinute, who: str) -> int:
        """The same, uncounted."""
        return self._ask(item, who, count=False)

    def _ask(self, item: RateLimitItemPerMinute, who: str, *, count: bool) -> int:
        if time.monotonic() >= self._away_until:
            try:
                return _wait(self._shared, item, who, count=count)
            except Exception as problem:  # redis' own kinds are many
                self._away_until = time.monotonic() + _AGAIN
                log.warning("Redis does not count requests", problem=str(problem))
        return _wait(self._own, item, who, count=count)


def _wait(
    limiter: FixedWindowRateLimiter, item: RateLimitItemPerMinute, who: str, *, count: bool
) -> int:
    admitted = limiter.hit(item, who) if count else limiter.test(item, who)
    if admitted:
        return 0
    left = limiter.get_window_stats(item, who).reset_time - time.time()
    return max(1, math.ceil(left))


def _redis(broker: str) -> Storage:
    url = broker.replace("redis+socket://", "redis+unix://", 1)
    options = {"socket_connect_timeout": _SECONDS, "socket_timeout": _SECONDS}
    storage = storage_from_string(url, **options)
    assert isinstance(storage, Storage), "not one for asyncio"
    return storage
