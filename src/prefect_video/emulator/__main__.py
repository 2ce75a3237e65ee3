"""Command line of the emulator: `python -m prefect_video.emulator` runs until stopped.

Prints one line of JSON with its addresses as soon as requests are answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from prefect_video._crash_trace import enable_crash_trace
from prefect_video.emulator.faults import load_faults
from prefect_video.emulator.server import Addresses, serve
from prefect_video.emulator.settings import EmulatorSettings
from prefect_video.emulator.state_store import StateStoreError


def parse_arguments(arguments: Sequence[str] | None = None) -> EmulatorSettings:
    """Read settings from command-line options; missing options keep the settings' defaults.

    Raises:
        ValueError: An option has an invalid value, or the fault file is malformed.
        OSError: The fault file cannot be read.
    """
    parser = argparse.ArgumentParser(prog="python -m prefect_video.emulator", argument_default=argparse.SUPPRESS)
    parser.add_argument("--host", help="address to bind")
    parser.add_argument("--public-host", help="host name to write into links")
    parser.add_argument("--port", type=int, help="API port, 0 for a free one")
    parser.add_argument("--cdn-port", type=int, help="download port, 0 for a free one")
    parser.add_argument("--key", dest="keys", action="append", help="API key; repeat for several accounts")
    parser.add_argument("--webhook-secret", help="secret that signs webhooks")
    parser.add_argument("--registered-webhook-url", help="where dialects without an address per job send events")
    parser.add_argument("--speed", type=float, help="divides the work time")
    parser.add_argument("--capacity", type=int, help="unfinished generations per key")
    parser.add_argument("--monthly-quota", type=int, help="generations per key and month")
    parser.add_argument("--db", type=Path, help="SQLite file in which generations and usage are kept")
    parser.add_argument("--faults", type=Path, help="YAML or JSON file of fault rules")
    parser.add_argument("--render", choices=["full", "plate"], help="draw every clip, or share plates")
    parser.add_argument("--times", help="uniform, fixed:SECONDS or lognormal:SIGMA")
    parser.add_argument("--link-ttl-seconds", type=float, help="life of a download link")
    parser.add_argument("--retry-after-seconds", type=float, help="seconds to wait that a full account reports")
    parser.add_argument("--listing", choices=["on", "404", "405", "501"], help="whether listing works")
    parser.add_argument("--no-hint", dest="hint", action="store_false", help="no estimated_completion_time")
    parser.add_argument("--no-echo-metadata", dest="echo_metadata", action="store_false", help="no metadata echo")
    options = vars(parser.parse_args(arguments))
    if "faults" in options:
        options["faults"] = load_faults(options["faults"])
    return EmulatorSettings(**options)


def main() -> int:
    """Run the emulator; return 2 for an invalid option, 1 for a port or file that cannot be used."""
    enable_crash_trace()
    try:
        settings = parse_arguments()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        print(f"--{'.'.join(map(str, first['loc'])).replace('_', '-')}: {first['msg']}", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    try:
        asyncio.run(serve(settings, ready=_announce))
    except (OSError, StateStoreError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _announce(addresses: Addresses) -> None:
    line = {"endpoint": addresses.endpoint, "cdn": addresses.cdn, "pid": os.getpid()}
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
