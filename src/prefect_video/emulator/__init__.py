"""Emulator: the embedded provider, with real HTTP, real MP4s, faults on demand and usage counters.

Speaks every provider's dialect. May import the contracts of the records and providers; nothing but the command line and
tests imports it.
"""

from typing import TYPE_CHECKING

from prefect_video._lazy_names import import_at_first_use

if TYPE_CHECKING:
    from prefect_video.emulator.embedded import start_emulator
    from prefect_video.emulator.faults import FaultMatch, FaultRule, load_faults
    from prefect_video.emulator.server import Addresses, RunningEmulator, run_emulator, serve
    from prefect_video.emulator.settings import EmulatorSettings
    from prefect_video.emulator.state_store import StateStoreError
    from prefect_video.emulator.threaded import Emulator
else:
    # Its web server is imported at its first use: a session with an emulator that is sent nothing needs none.
    __getattr__ = import_at_first_use(
        __name__,
        {
            "Addresses": "server",
            "Emulator": "threaded",
            "EmulatorSettings": "settings",
            "FaultMatch": "faults",
            "FaultRule": "faults",
            "RunningEmulator": "server",
            "StateStoreError": "state_store",
            "load_faults": "faults",
            "run_emulator": "server",
            "serve": "server",
            "start_emulator": "embedded",
        },
    )


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
