"""Objects of before a run are left out of garbage collections while it lasts, and no longer."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from prefect_video._frozen_heap import frozen_heap


class Cycle:
    """An object that only a garbage collection removes."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def nothing_frozen() -> Iterator[None]:
    gc.collect()
    gc.unfreeze()
    yield
    gc.unfreeze()


def is_collected(reference: weakref.ref[Cycle]) -> bool:
    gc.collect()
    return reference() is None


def test_what_was_there_is_collected_again_after_the_last_run() -> None:
    before = weakref.ref(Cycle())
    with frozen_heap():
        during = weakref.ref(Cycle())
        with frozen_heap():
            assert not is_collected(before)
        assert not is_collected(before)
        assert is_collected(during)
    assert is_collected(before)
    assert gc.get_freeze_count() == 0


def test_a_run_that_fails_leaves_nothing_frozen() -> None:
    with pytest.raises(ValueError, match="failed"), frozen_heap():
        raise ValueError("failed")
    assert gc.get_freeze_count() == 0


def test_what_a_program_has_frozen_itself_stays_so() -> None:
    gc.freeze()
    frozen = gc.get_freeze_count()
    with frozen_heap():
        assert gc.get_freeze_count() == frozen
    assert gc.get_freeze_count() == frozen
