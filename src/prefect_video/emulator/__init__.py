"""An embedded text-to-video provider: real HTTP, real MP4s, faults on demand, books of what was paid."""

from prefect_video.emulator.faults.rules import FaultMatch, FaultRule, load_faults
from prefect_video.emulator.server import Addresses, Running, running, serve
from prefect_video.emulator.settings import EmulatorSettings
from prefect_video.emulator.threaded import Emulator

__all__ = [
    "Addresses",
    "Emulator",
    "EmulatorSettings",
    "FaultMatch",
    "FaultRule",
    "Running",
    "load_faults",
    "running",
    "serve",
]
