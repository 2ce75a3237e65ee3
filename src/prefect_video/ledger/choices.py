"""Choices: which take of a shot counts, which shots are dropped, and which are made with another prompt."""

from __future__ import annotations

from collections.abc import Collection

from pydantic import AwareDatetime
from sqlalchemy import delete, insert, select

from prefect_video.ledger.base import LedgerBase
from prefect_video.ledger.claims import wait_for_turn
from prefect_video.ledger.records import Record
from prefect_video.ledger.tables import choices


class Choice(Record):
    """A decision about the takes of a shot.

    Attributes:
        project: Name of the project.
        shot_id: The shot's id.
        prompt: The prompt of the shot in its project that the decision is about; another one makes it void.
        new_prompt: The prompt that the shot is made with instead; None for its own.
        take: The take that was chosen; None where none is yet.
        fingerprint: The fingerprint of that take.
        is_dropped: The shot is not made any more.
        decided_by: Who has decided: a user's name, or `first`.
        decided_at: When.
    """

    project: str
    shot_id: str
    prompt: str
    new_prompt: str | None = None
    take: int | None = None
    fingerprint: str | None = None
    is_dropped: bool = False
    decided_by: str
    decided_at: AwareDatetime


_COLUMNS = tuple(choices.c[name] for name in Choice.model_fields)


class Choices(LedgerBase):
    """Decisions about the takes of shots, the last one of each shot."""

    async def read(self, project: str, *, environment: str) -> dict[str, Choice]:
        """Read the decisions about a project's shots, by their ids."""
        query = select(*_COLUMNS).where(choices.c.project == project, choices.c.environment == environment)
        async with self._database.reading() as connection:
            found = await connection.execute(query)
            return {row.shot_id: Choice.model_validate(row._asdict()) for row in found}

    async def record(self, choice: Choice, *, environment: str, unless_among: Collection[str] = ()) -> Choice:
        """Record a decision in place of the last one about its shot.

        Args:
            choice: The decision.
            environment: The environment of the shot's jobs.
            unless_among: Keep a decision for a take with one of these fingerprints: the first decision counts. One
                that was made meanwhile, to drop the shot or to make it with another prompt, is kept too.

        Returns:
            The decision that holds.
        """
        place = (
            choices.c.environment == environment,
            choices.c.project == choice.project,
            choices.c.shot_id == choice.shot_id,
        )
        async with self._database.writing() as connection:
            await wait_for_turn(self._database, connection)
            if unless_among:
                row = (await connection.execute(select(*_COLUMNS).where(*place))).one_or_none()
                held = None if row is None else Choice.model_validate(row._asdict())
                if held and (held.fingerprint in unless_among or _is_newer(held, choice)):
                    return held
            await connection.execute(delete(choices).where(*place))
            await connection.execute(insert(choices).values(environment=environment, **choice.model_dump()))
        return choice


def _is_newer(held: Choice, choice: Choice) -> bool:
    """Tell whether a decision about the same prompt is not the one that the run of a choice began with.

    A run makes a shot as the decision says that it has read: one that is dropped, or has another prompt, came later.
    """
    return held.prompt == choice.prompt and (held.is_dropped or held.new_prompt != choice.new_prompt)
