"""Approval: which take of a shot counts, which shots are dropped, and which are made with another prompt.

Decisions are in the ledger, and made by a run of itself (`choose: best` or `first`), by a command or by an
orchestrator. A decision is about a prompt: where the project's shot has another one by now, it is void.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from prefect_video.errors import InvalidInput
from prefect_video.ledger import ApprovalRequest, Choice, Job, JobRequest, Ledger, State, command_line
from prefect_video.projects import Project
from prefect_video.shots import PROMPT_LIMIT, Shot

logger = logging.getLogger(__name__)

BY_POLICY: Final = ("best", "first")
"""Deciders that are no human: their choice is no approval."""
BY_DEADLINE: Final = "deadline"
"""Decider of what was not answered in time."""


@dataclass(frozen=True)
class ShotTakes:
    """The stored takes of a shot, and the decision about them.

    Attributes:
        shot: The shot, as its newest take was requested.
        takes: The newest stored job of each take, by number.
        choice: The decision that holds for them; None where there is none.
        request: The request for an approval; None where none was made.
    """

    shot: Shot
    takes: Mapping[int, Job]
    choice: Choice | None
    request: ApprovalRequest | None = None

    @property
    def proposed(self) -> int:
        """Number of the take that counts where all is approved as it is."""
        return self.request.proposed if self.request and self.request.proposed in self.takes else min(self.takes)

    @property
    def chosen(self) -> int | None:
        """Number of the chosen take; None where none is."""
        if self.choice is None or self.choice.take is None:
            return None
        if self.request is not None and self.choice.decided_by in BY_POLICY:
            return None
        job = self.takes.get(self.choice.take)
        return self.choice.take if job and job.fingerprint == self.choice.fingerprint else None

    @property
    def is_pending(self) -> bool:
        """True where a human is to choose, and has not."""
        is_decided = self.chosen is not None or (self.choice is not None and self._is_left_to_a_run)
        is_asked = self.request is not None or (self.shot.choose == "human" and self.shot.takes > 1)
        return is_asked and not is_decided

    @property
    def _is_left_to_a_run(self) -> bool:
        """True where the shot is dropped, or yet to be made with its new prompt."""
        assert self.choice is not None
        return self.choice.is_dropped or self.choice.new_prompt not in (None, self.shot.prompt)


def apply_choices(project: Project, choices: Mapping[str, Choice]) -> tuple[Project, dict[str, Choice]]:
    """Apply decisions to a project.

    Returns:
        The project without dropped shots and with the prompts that replace others, and the decisions that hold.
    """
    valid = {
        shot.id: choice for shot in project.shots if (choice := choices.get(shot.id)) and choice.prompt == shot.prompt
    }
    if not valid:
        return project, {}
    shots = tuple(
        _with_prompt(shot, valid.get(shot.id))
        for shot in project.shots
        if shot.id not in valid or not valid[shot.id].is_dropped
    )
    return project.model_copy(update={"shots": shots}), valid


def _with_prompt(shot: Shot, choice: Choice | None) -> Shot:
    new_prompt = choice.new_prompt if choice else None
    return shot if new_prompt is None else shot.model_copy(update={"prompt": new_prompt})


def chosen_take(shot: Shot, choice: Choice | None, fingerprints: Mapping[int, Collection[str]]) -> int | None:
    """Return the number of the take that counts; None where that is yet to be decided.

    Args:
        shot: The shot.
        choice: The decision about it that holds, if there is one.
        fingerprints: The fingerprints of each take, one for each account that could make it: a decision for another
            video is void.
    """
    is_decided = choice is not None and not (shot.approve and choice.decided_by in BY_POLICY)
    if is_decided and choice and choice.take and choice.fingerprint in fingerprints.get(choice.take, ()):
        return choice.take
    if shot.approve:
        return None
    return 1 if shot.takes == 1 or shot.choose is None else None


async def list_takes(ledger: Ledger, project: str, *, environment: str) -> list[ShotTakes]:
    """List the shots of a project that have several takes, a `choose` or an approval, in the order of their begin.

    Raises:
        LedgerError: The ledger cannot be read.
    """
    choices = await ledger.choices.read(project, environment=environment)
    stored: dict[str, list[Job]] = {}
    for job in reversed(await ledger.jobs.find(project=project, state=State.STORED, limit=None)):
        if job.environment == environment:
            stored.setdefault(job.shot.id, []).append(job)
    requests = {request.shot_id: request for request in await ledger.approvals.read(project, environment=environment)}
    requested = {shot_id: await _read_requested(ledger, request) for shot_id, request in requests.items()}
    found = []
    for shot_id in {**stored, **requests}:
        of_shot = _ShotHistory(
            stored.get(shot_id, []), requested.get(shot_id, {}), requests.get(shot_id), choices.get(shot_id)
        )
        if (takes := of_shot.list_current(shot_id)) is not None:
            found.append(takes)
    return found


async def _read_requested(ledger: Ledger, request: ApprovalRequest) -> dict[int, Job]:
    """Read the stored jobs that a request is about; another project may have made them: a video is paid once."""
    numbers = {job_id: take for take, job_id in request.takes.items()}
    return {numbers[job.id]: job for job in await ledger.jobs.get_many(numbers) if job.state is State.STORED}


@dataclass(frozen=True)
class _ShotHistory:
    """Jobs and decisions of one shot, whose prompt may have changed and changed back.

    Attributes:
        stored: Its stored jobs, oldest first.
        requested: The jobs that the last request for an approval is about.
        request: That request.
        choice: The last decision.
    """

    stored: Sequence[Job]
    requested: Mapping[int, Job]
    request: ApprovalRequest | None
    choice: Choice | None

    def list_current(self, shot_id: str) -> ShotTakes | None:
        """Return the takes of the prompt that the shot has now; None where nothing is to be decided about them."""
        by_prompt: dict[str, dict[int, Job]] = {}
        for job in self.stored:
            by_prompt.setdefault(job.shot.prompt, {})[job.take] = job
        for take, job in self.requested.items():
            by_prompt.setdefault(job.shot.prompt, {}).setdefault(take, job)
        if not by_prompt:
            return None
        since, prompt = self._find_current(by_prompt)
        current = by_prompt[prompt]
        latest = max(current.values(), key=_time_of)
        if not (latest.shot.takes > 1 or latest.shot.choose or self.request):
            return None
        shot = latest.shot.model_copy(update={"id": shot_id})
        choice = self.choice
        # One that is later than these takes is about them, whatever prompt it asks for.
        is_about_it = choice is not None and (
            prompt in (choice.prompt, choice.new_prompt) or choice.decided_at >= since
        )
        return ShotTakes(shot, dict(sorted(current.items())), choice if is_about_it else None, self.request)

    def _find_current(self, by_prompt: Collection[str]) -> tuple[datetime, str]:
        """Return the prompt that the shot has now, and since when: of its last video, request or decision."""
        moments = [(_time_of(job), job.shot.prompt) for job in self.stored]
        if self.request is not None:
            moments += [(self.request.asked_at, job.shot.prompt) for job in self.requested.values()]
        if self.choice is not None and (wanted := self.choice.new_prompt or self.choice.prompt) in by_prompt:
            moments.append((self.choice.decided_at, wanted))
        return max(moments)


def _time_of(job: Job) -> datetime:
    return job.stored_at or job.created_at


async def list_pending(ledger: Ledger, project: str, *, environment: str) -> list[ShotTakes]:
    """List the shots of a project that wait for a human.

    Raises:
        LedgerError: The ledger cannot be read.
    """
    return [takes for takes in await list_takes(ledger, project, environment=environment) if takes.is_pending]


async def approve_as_proposed(
    ledger: Ledger, project: str, shot_ids: Collection[str] | None, *, by: str, environment: str
) -> list[Choice]:
    """Approve what waits for a human as it is: of several takes, the proposed one counts.

    Args:
        ledger: The ledger.
        project: Name of the project.
        shot_ids: Only these shots; None for all that wait.
        by: Who decides.
        environment: The environment of the project's jobs.

    Raises:
        InvalidInput: One of the shots does not wait for an approval.
    """
    pending = await list_pending(ledger, project, environment=environment)
    waiting = [takes.shot.id for takes in pending]
    if absent := set(shot_ids or ()) - set(waiting):
        names = ", ".join(map(repr, waiting)) or "none"
        raise InvalidInput(f"{', '.join(map(repr, sorted(absent)))} waits for no approval; what does: {names}")
    return [
        await choose_take(ledger, project, takes.shot.id, takes.proposed, by=by, environment=environment)
        for takes in pending
        if shot_ids is None or takes.shot.id in shot_ids
    ]


async def settle_overdue(ledger: Ledger, project: str | None = None) -> list[Choice]:
    """Decide about the shots that were not approved in time, as their project says; one that is to fail is left.

    Raises:
        LedgerError: The ledger cannot be used.
    """
    decided = []
    for request in _overdue(await ledger.approvals.read(project)):
        for takes in await list_pending(ledger, request.project, environment=request.environment):
            if takes.shot.id != request.shot_id or not _is_about(request, takes):
                continue
            logger.warning("%s/%s: %s", request.project, request.shot_id, describe_overdue(request))
            project, shot_id, environment = request.project, request.shot_id, request.environment
            if request.on_no_answer == "drop":
                decided.append(await drop_shot(ledger, project, shot_id, by=BY_DEADLINE, environment=environment))
            elif request.on_no_answer == "first":
                choice = choose_take(ledger, project, shot_id, takes.proposed, by=BY_DEADLINE, environment=environment)
                decided.append(await choice)
    return decided


def _overdue(requests: Iterable[ApprovalRequest]) -> list[ApprovalRequest]:
    now = datetime.now(UTC)
    return [request for request in requests if request.is_overdue(now)]


def _is_about(request: ApprovalRequest, takes: ShotTakes) -> bool:
    """Return False where the shot has been made anew since, about which no one was asked yet."""
    return {job.id for job in takes.takes.values()} <= set(request.takes.values())


def describe_overdue(request: ApprovalRequest) -> str:
    """Describe an approval that was not given in time, and what follows."""
    consequence = {
        "first": f"take {request.proposed} counts",
        "drop": "the shot is dropped",
        "fail": "the shot fails",
    }[request.on_no_answer]
    return f"it was not approved by {request.due_at:%Y-%m-%d %H:%M} UTC: {consequence}"


async def choose_take(ledger: Ledger, project: str, shot_id: str, take: int, *, by: str, environment: str) -> Choice:
    """Decide which take of a shot counts.

    Raises:
        InvalidInput: There is no such shot with stored takes, or no such take.
    """
    found = await _find_takes(ledger, project, shot_id, environment)
    job = found.takes.get(take)
    if job is None:
        stored = ", ".join(map(str, found.takes))
        raise InvalidInput(f"shot {shot_id!r}: take {take} is not stored; the takes that are: {stored}")
    choice = _decide(project, found, by).model_copy(update={"take": take, "fingerprint": job.fingerprint})
    return await ledger.choices.record(choice, environment=environment)


async def drop_shot(ledger: Ledger, project: str, shot_id: str, *, by: str, environment: str) -> Choice:
    """Decide that a shot is not made any more; its stored videos stay in the store.

    Raises:
        InvalidInput: There is no such shot with stored takes.
    """
    found = await _find_takes(ledger, project, shot_id, environment)
    choice = _decide(project, found, by).model_copy(update={"is_dropped": True})
    return await ledger.choices.record(choice, environment=environment)


async def redo_shot(ledger: Ledger, project: str, shot_id: str, prompt: str, *, by: str, environment: str) -> Choice:
    """Decide that the next run makes a shot anew, with another prompt.

    Raises:
        InvalidInput: There is no such shot with stored takes, or the prompt is blank, too long or the same.
    """
    found = await _find_takes(ledger, project, shot_id, environment)
    if not prompt.strip() or len(prompt) > PROMPT_LIMIT:
        raise InvalidInput(f"shot {shot_id!r}: the new prompt has 1 to {PROMPT_LIMIT:,} characters")
    takes_back = found.choice is not None and found.choice.new_prompt not in (None, prompt)
    if prompt == found.shot.prompt and not takes_back:
        raise InvalidInput(f"shot {shot_id!r}: the new prompt is the one that it has; to buy more takes raise `takes`")
    choice = _decide(project, found, by).model_copy(update={"new_prompt": prompt})
    return await ledger.choices.record(choice, environment=environment)


async def choose_by_policy(
    ledger: Ledger,
    shot: Shot,
    choice: Choice | None,
    job_request: JobRequest,
    *,
    fingerprint: str,
    among: Collection[str],
) -> Choice:
    """Record the take that the shot's own policy chooses; one that another run has chosen before counts.

    Args:
        ledger: The ledger.
        shot: The shot, with the prompt that it is made with.
        choice: The decision about it that holds, if there is one.
        job_request: The request of the take.
        fingerprint: The fingerprint of its video.
        among: The fingerprints of the shot's takes.
    """
    decided = Choice(
        project=job_request.project,
        shot_id=shot.id,
        prompt=choice.prompt if choice else shot.prompt,
        new_prompt=choice.new_prompt if choice else None,
        take=job_request.take,
        fingerprint=fingerprint,
        decided_by=shot.choose or "first",
        decided_at=datetime.now(UTC),
    )
    return await ledger.choices.record(decided, environment=job_request.environment, unless_among=among)


def approve_command(ledger: Ledger, project: str, *words: str) -> str:
    """Return the command that decides about a project's takes."""
    return command_line("approve", project, *words, ledger=ledger.command_option)


def _decide(project: str, found: ShotTakes, by: str) -> Choice:
    """Begin a decision about the prompt that the takes are of."""
    before = found.choice
    return Choice(
        project=project,
        shot_id=found.shot.id,
        prompt=before.prompt if before else found.shot.prompt,
        new_prompt=before.new_prompt if before else None,
        decided_by=by,
        decided_at=datetime.now(UTC),
    )


async def _find_takes(ledger: Ledger, project: str, shot_id: str, environment: str) -> ShotTakes:
    listed: Sequence[ShotTakes] = await list_takes(ledger, project, environment=environment)
    for found in listed:
        if found.shot.id == shot_id:
            return found
    known = ", ".join(repr(found.shot.id) for found in listed) or "none"
    raise InvalidInput(
        f"project {project!r} has no shot {shot_id!r} to decide about; there are: {known}. A decision is about stored"
        " takes: run the project first"
    )
