"""Emulator: the embedded provider, with real HTTP, real MP4s, faults on demand and usage counters.

Speaks every provider's dialect. May import the contracts of the records and providers; nothing but the command line and
tests imports it.
"""

from prefect_video.emulator.embedded import start_emulator
from prefect_video.emulator.faults import FaultMatch, FaultRule, load_faults
from prefect_video.emulator.server import Addresses, RunningEmulator, run_emulator, serve
from prefect_video.emulator.settings import EmulatorSettings
from prefect_video.emulator.state_store import StateStoreError
from prefect_video.emulator.threaded import Emulator

__all__ = [
    "Addresses",
    "Emulator",
    "EmulatorSettings",
    "FaultMatch",
    "FaultRule",
    "RunningEmulator",
    "StateStoreError",
    "load_faults",
    "run_emulator",
    "serve",
    "start_emulator",
]
