"""`tokens`: the tokens of the job API."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from prefect_video.cli.options import JsonFlag
from prefect_video.cli.output import DONE, print_json, print_status, stdout


def create(
    name: Annotated[str, Parameter(help="Name by which it is charged and recorded.")],
    *,
    scope: Annotated[
        list[Literal["submit", "read", "cancel"]] | None,
        Parameter(name="--scope", negative="", help="What it allows; may be given repeatedly. By default all."),
    ] = None,
    monthly_usd: Annotated[Decimal | None, Parameter(help="The most it may spend in a month, in USD.")] = None,
    per_minute: Annotated[int | None, Parameter(help="Requests a minute.")] = 600,
    file: Annotated[Path | None, Parameter(help="Tokens file to add the entry to; else it is printed.")] = None,
    json: JsonFlag = False,
) -> int:
    """Make a token for the job API. The token itself is shown once; the service keeps its hash.

    Try:

        prefect-video tokens create web --scope submit --scope read --monthly-usd 50 --file tokens.yaml

        PREFECT_VIDEO_SERVICE_TOKENS_FILE=tokens.yaml prefect-video serve
    """
    import yaml

    from prefect_video.service import add_token, create_token, describe_token

    text, entry = create_token(
        name, scope or ("submit", "read", "cancel"), monthly_usd=monthly_usd, per_minute=per_minute
    )
    described = describe_token(entry)
    if file is not None:
        add_token(file, entry)
    if json:
        print_json({"token": text, "entry": described})
        return DONE
    print_status("The token, shown once:" if file else "The token, shown once, and its entry for the tokens file:")
    stdout().print(text, markup=False, highlight=False, soft_wrap=True)
    if file is None:
        stdout().print(
            yaml.safe_dump({"tokens": [described]}, sort_keys=False), markup=False, highlight=False, soft_wrap=True
        )
    return DONE
