"""Evidence in the echo of a prompt, in a clock and in a list, against generated inputs."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from prefect_video.errors import InvalidResponse
from prefect_video.generations import Generation, Status
from prefect_video.providers.clocks import ClockReading, ProviderClock
from prefect_video.providers.matching import Match, match_prompt, split_words
from prefect_video.providers.pages import Cursor, ListPage, read_whole

Rewrite = Callable[[str], str]

WORDS = st.lists(
    st.sampled_from(
        [
            "a",
            "red",
            "balloon",
            "drifts",
            "over",
            "café",
            "rooftops",
            "at",
            "dawn",
            "35mm",
            "ﬁlm",
            "霧",
            "городом",
            "–",
            "“slowly”",
        ]
    ),
    min_size=3,
    max_size=30,
)
PROMPTS = WORDS.map(" ".join)


def cut(length: int, ellipsis: str) -> Rewrite:
    return lambda text: text[:length] + (ellipsis if len(text) > length else "")


SPELLINGS: st.SearchStrategy[Rewrite] = st.sampled_from(
    [
        lambda text: " ".join(text.split()),
        lambda text: unicodedata.normalize("NFC", text),
        lambda text: unicodedata.normalize("NFD", text),
        lambda text: unicodedata.normalize("NFKC", text),
        str.lower,
        str.upper,
        lambda text: f"  {text}\n",
        lambda text: text.replace(" ", "\u00a0"),
        lambda text: text.replace(" ", " \u200b"),
    ]
)
AROUND: st.SearchStrategy[Rewrite] = st.sampled_from(
    [lambda text: f"Cinematic, {text}", lambda text: f"{text}. High quality, 8k.", lambda text: f'"{text}"']
)
CUTS = st.builds(cut, st.integers(24, 60), st.sampled_from(["", "...", "…"]))


@given(PROMPTS, st.lists(SPELLINGS, max_size=4))
def test_spelling_alone_leaves_a_prompt_the_same(prompt: str, spellings: list[Rewrite]) -> None:
    echoed = prompt
    for rewrite in spellings:
        echoed = rewrite(echoed)
    assert match_prompt(prompt, echoed) is Match.SAME


@given(PROMPTS, st.lists(SPELLINGS, max_size=2), st.lists(AROUND, max_size=2), st.lists(CUTS, max_size=1))
def test_what_is_respelled_put_around_and_cut_may_be_ours(
    prompt: str, spellings: list[Rewrite], around: list[Rewrite], cuts: list[Rewrite]
) -> None:
    echoed = prompt
    for rewrite in (*spellings, *around, *cuts):
        echoed = rewrite(echoed)
    # A cut that leaves only what was put around the prompt leaves nothing to compare.
    assume(set(split_words(prompt)) & set(split_words(echoed)))
    assert match_prompt(prompt, echoed) is not Match.DIFFERENT


@pytest.mark.parametrize(
    ("requested", "echoed"),
    [
        ("a red balloon", "a blue balloon"),
        ("a cat on a roof", "another cat"),
        ("a cat, scene 1", "a cat, scene 2"),
        ("a cat", "a dog"),
    ],
)
def test_words_that_were_exchanged_are_of_another_request(requested: str, echoed: str) -> None:
    assert match_prompt(requested, echoed) is Match.DIFFERENT


@pytest.mark.parametrize("echoed", [None, "", "***", "une montgolfière rouge au-dessus", "红色气球"])
def test_words_that_cannot_be_compared_prove_nothing(echoed: str | None) -> None:
    requested = "a red balloon" if echoed != "une montgolfière rouge au-dessus" else "赤い気球"
    assert match_prompt(requested, echoed) is Match.POSSIBLE


SENT_AT = datetime(2026, 11, 26, 12, tzinfo=UTC)
SECONDS = st.floats(-86400, 86400)


@given(offset=SECONDS, latencies=st.lists(st.floats(0, 7200), min_size=1, max_size=8), date_offset=SECONDS)
def test_whatever_the_clocks_what_was_made_since_is_never_older(
    offset: float, latencies: list[float], date_offset: float
) -> None:
    ahead = timedelta(seconds=offset)
    recorded = {f"g{n}": SENT_AT - timedelta(hours=n + 1) for n in range(len(latencies))}
    created = {
        name: at + ahead - timedelta(seconds=latency)
        for (name, at), latency in zip(recorded.items(), latencies, strict=True)
    }
    reading = ProviderClock().read(timedelta(seconds=date_offset), created, recorded)
    assert not reading.is_older(SENT_AT + ahead, SENT_AT)
    assert not reading.is_older(None, SENT_AT)


def test_where_no_clock_is_known_nothing_is_older() -> None:
    reading: ClockReading = ProviderClock().read(timedelta(0), {}, {})
    assert not reading.is_older(SENT_AT - timedelta(days=365), SENT_AT)


def generation(number: int) -> Generation:
    return Generation(id=f"g{number}", provider="p", status=Status.QUEUED)


@given(
    count=st.integers(0, 23),
    cap=st.integers(1, 10),
    limit=st.integers(1, 10),
    style=st.sampled_from(["has_more", "total", "silent"]),
    positional=st.booleans(),
)
async def test_lists_of_every_page_size_are_read_whole(
    count: int, cap: int, limit: int, style: str, positional: bool
) -> None:
    """A server may give fewer items a page than were requested, and say nothing of it."""
    everything = [generation(number) for number in range(count)]
    size = min(cap, limit)

    async def read_page(cursor: Cursor | None) -> ListPage:
        start = int(str(cursor).removeprefix("g")) + (0 if positional else 1) if cursor is not None else 0
        items = tuple(everything[start : start + size])
        return ListPage(
            items,
            has_more=start + len(items) < count if style == "has_more" else None,
            cursors=tuple(start + n + 1 for n in range(len(items))) if positional else tuple(item.id for item in items),
            total=count if style == "total" else None,
            limit=limit,
            positional=positional,
        )

    try:
        read = (await read_whole(read_page, provider="p", unwrap_id=str)).items
    except InvalidResponse:
        # One item a page, and no word of an end: that cannot be told from a list whose cursor is gone.
        assert style == "silent"
        assert size == 1
        return
    assert {item.id for item in read} == {item.id for item in everything}
