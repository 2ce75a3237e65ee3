"""Make a project's videos with plain asyncio: in a notebook, a function, or another orchestrator.

    python examples/without_prefect.py

It uses the embedded emulator, which costs nothing. A second run finds both videos in the ledger and sends nothing.
"""

import asyncio
from decimal import Decimal

from prefect_video import Project, ProjectReport, SessionRef, Shot, open_session, plan_project, run_project

FILM = Project(
    project="coffee-ad",
    budget_usd=Decimal(10),
    shots=[
        Shot(id="opening", prompt="Dawn over a coffee plantation, slow aerial push-in", duration=4),
        Shot(id="pour", prompt="Macro of espresso pouring into a glass, backlit", duration=5),
    ],
)


async def make_film() -> ProjectReport:
    """Plan the film, then make what is not stored yet."""
    ref = SessionRef.from_names(provider="emulator", store="videos")
    async with await open_session(ref) as session:
        plan = await plan_project(session, FILM)
        print(f"to pay: {plan.describe_cost()}")
        return await run_project(session, FILM)


def main() -> None:
    """Print one line for each shot; end with status 1 where a video is missing."""
    report = asyncio.run(make_film())
    for shot in report.shots:
        print(shot.id, shot.status, shot.uri or shot.error)
    if any(shot.status != "stored" for shot in report.shots):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
