"""Polling: waiting for the ends of many generations with few requests.

One `Poller` for each account reads what is due, alone or through the provider's list; `JobWatcher` waits for jobs that
other processes move. May import providers, the ledger and the records.
"""

from prefect_video.polling.job_watcher import JobWatcher
from prefect_video.polling.latency import LatencyCache, LatencyForecast
from prefect_video.polling.poller import Poller, is_transient
from prefect_video.polling.request_budget import RequestBudget
from prefect_video.polling.schedule import PollSchedule

__all__ = [
    "JobWatcher",
    "LatencyCache",
    "LatencyForecast",
    "PollSchedule",
    "Poller",
    "RequestBudget",
    "is_transient",
]
