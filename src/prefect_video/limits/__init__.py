"""Limits: what holds a request back before it is sent.

The circuit breaker, the rate limiter, the priorities of slots and steps, and the prompt screen. May import providers,
the ledger and the records.
"""

from prefect_video.limits.circuit_breaker import CircuitBreaker, CircuitBreakerProvider
from prefect_video.limits.priority_semaphore import PrioritySemaphore, Slot
from prefect_video.limits.prompt_screen import PromptScreen
from prefect_video.limits.rate_limiter import RateLimiter
from prefect_video.limits.step_priority import StepPriority, StepRank

__all__ = [
    "CircuitBreaker",
    "CircuitBreakerProvider",
    "PrioritySemaphore",
    "PromptScreen",
    "RateLimiter",
    "Slot",
    "StepPriority",
    "StepRank",
]
