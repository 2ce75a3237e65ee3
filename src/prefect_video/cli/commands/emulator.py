"""`emulator`: the embedded provider as a server of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from pydantic import ValidationError

from prefect_video.cli.output import DONE, escape, stdout
from prefect_video.errors import InvalidInput, VideoError


def emulator(
    *,
    host: Annotated[str, Parameter(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="API port; 0 for a free one.")] = 8123,
    cdn_port: Annotated[int, Parameter(help="Download port; 0 for a free one.")] = 0,
    key: Annotated[str, Parameter(help="The API key that it takes.")] = "sk-emulator",
    speed: Annotated[float, Parameter(help="Divides the working time of 6 to 12 s a video second.")] = 1.0,
    capacity: Annotated[int, Parameter(help="Unfinished generations at once; one more is answered 429.")] = 10,
    monthly_quota: Annotated[int | None, Parameter(help="Generations a month; unlimited by default.")] = None,
    webhook_secret: Annotated[str, Parameter(help="Signs the webhooks.")] = "whsec_emulator",
    db: Annotated[Path | None, Parameter(help="Remember generations and usage in this SQLite file.")] = None,
    faults: Annotated[Path | None, Parameter(help="YAML or JSON file of fault rules.")] = None,
) -> int:
    """Serve a text-to-video provider that makes real MP4s and costs nothing; runs until Ctrl-C.

    Try:

        prefect-video emulator --speed 20

        prefect-video emulator --port 9000 --db emulator.db --faults faults.yaml
    """
    from prefect_video.emulator import Addresses, StateStoreError, serve

    settings = _settings(
        faults,
        host=host,
        port=port,
        cdn_port=cdn_port,
        keys=(key,),
        speed=speed,
        capacity=capacity,
        monthly_quota=monthly_quota,
        webhook_secret=webhook_secret,
        db=db,
    )

    def announce(addresses: Addresses) -> None:
        console = stdout()
        console.print("[bold]The emulator is running.[/] Ctrl-C ends it. To use it, paste:\n")
        console.print(f"  export SORA_API_ENDPOINT={escape(addresses.endpoint)}", soft_wrap=True)
        console.print(f"  export SORA_API_KEY={escape(key)}\n", soft_wrap=True)
        console.print(f"[dim]endpoint[/]  {escape(addresses.endpoint)}", soft_wrap=True)
        console.print(f"[dim]usage   [/]  {escape(addresses.url)}/_emulator/usage", soft_wrap=True)
        console.print(f"[dim]faults  [/]  POST {escape(addresses.url)}/_emulator/faults", soft_wrap=True)
        console.file.flush()

    try:
        asyncio.run(serve(settings, ready=announce))
    except OSError as error:
        raise VideoError(error.strerror or str(error)) from error
    except StateStoreError as error:
        raise VideoError(str(error)) from error
    return DONE


def _settings(faults: Path | None, **options: Any) -> Any:
    from prefect_video.emulator import EmulatorSettings, load_faults

    try:
        return EmulatorSettings(**options, faults=load_faults(faults) if faults else ())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0]).replace("_", "-").replace("keys", "key") if first["loc"] else "options"
        raise InvalidInput(f"--{name}: {first['msg']}") from error
    except (ValueError, OSError) as error:
        raise InvalidInput(f"--faults: {error}") from error
