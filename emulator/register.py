"""Every generation there is, found by id, by account and by being unfinished."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from prefect_video.emulator.generation import Generation


class Register:
    """Generations in order of acceptance."""

    def __init__(self) -> None:
        self._generations: dict[str, Generation] = {}
        self._by_account: defaultdict[str, list[Generation]] = defaultdict(list)
        self._unfinished: defaultdict[str, dict[str, Generation]] = defaultdict(dict)

    def add(self, generation: Generation) -> None:
        """Put in a generation, behind all others."""
        self._generations[generation.id] = generation
        self._by_account[generation.account].append(generation)
        if not generation.is_finished:
            self._unfinished[generation.account][generation.id] = generation

    def finish(self, generation: Generation) -> None:
        """Take note that a generation occupies no slot any more."""
        self._unfinished[generation.account].pop(generation.id, None)

    def clear(self) -> None:
        """Forget all."""
        self._generations.clear()
        self._by_account.clear()
        self._unfinished.clear()

    def get(self, generation_id: str) -> Generation | None:
        """The generation of that id, whoever owns it."""
        return self._generations.get(generation_id)

    def newest_first(self, account: str) -> Iterable[Generation]:
        """All of an account."""
        return reversed(self._by_account[account])

    def unfinished(self, account: str) -> list[Generation]:
        """Those of an account that occupy a slot."""
        return list(self._unfinished[account].values())

    def all_unfinished(self) -> list[Generation]:
        """Those of every account that occupy a slot."""
        return [generation for held in self._unfinished.values() for generation in held.values()]

    def count_unfinished(self, account: str | None = None) -> int:
        """Slots occupied by an account, or by all."""
        if account is not None:
            return len(self._unfinished[account])
        return sum(len(held) for held in self._unfinished.values())
