"""`optimize`: the length to request for a kind of content."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from prefect_video.cli.options import JsonFlag
from prefect_video.cli.output import DONE, escape, print_json, stdout, usd
from prefect_video.ledger import as_number
from prefect_video.providers import ADVISED_SECONDS, SORA_USD_PER_SECOND, optimize_duration, usd_for


def optimize(
    *,
    content_type: Annotated[
        str, Parameter(help=f"{', '.join(ADVISED_SECONDS)}; anything else counts as product.")
    ] = "product",
    minimum: Annotated[int, Parameter(help="The shortest acceptable length in seconds.")] = 5,
    longest: Annotated[int, Parameter(help="The longest that the provider or plan allows.")] = 20,
    json: JsonFlag = False,
) -> int:
    """Recommend a length by kind of content and by price.

    Try:

        prefect-video optimize --content-type broll --minimum 5
    """
    advice = optimize_duration(
        content_type, minimum_seconds=minimum, longest_seconds=longest, usd_per_second=SORA_USD_PER_SECOND
    )
    if json:
        print_json(
            {
                "seconds": advice.seconds,
                "cost_usd": as_number(advice.usd),
                "usd_per_second": as_number(advice.usd_per_second),
                "longest_at_same_price": advice.cheaper_seconds,
                "reason": advice.reason,
            }
        )
        return DONE
    console = stdout()
    console.print(f"[bold]{advice.seconds} s[/] for {usd(advice.usd)}: {escape(advice.reason)}", soft_wrap=True)
    if longer := advice.cheaper_seconds:
        console.print(f"{longer} s cost no more: {usd(usd_for(longer, SORA_USD_PER_SECOND))}", soft_wrap=True)
    return DONE
