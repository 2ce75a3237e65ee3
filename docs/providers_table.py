"""The tables of `providers.md`, made from the code.

    python -m docs.providers_table          # prints the page as it should be
    python -m docs.providers_table --write  # and writes it

A table stands between `<!-- table: NAME -->` and `<!-- end -->`. What no code says (what a provider is, how long its
links live) is in `NOTES`, one line for each name.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from prefect_video import blocks
from prefect_video.blocks.base import ProviderCredentials
from prefect_video.errors import InvalidInput
from prefect_video.frame_sizes import ALL_RESOLUTIONS, COMMON_RATIOS
from prefect_video.providers.base import OPTIONAL_FIELDS, Capabilities, Provider
from prefect_video.providers.hosted_models import ModelInput
from prefect_video.providers.openai.profiles import EXTRAS, PROFILES
from prefect_video.providers.pricing import price_lists
from prefect_video.providers.registry import ACCOUNT_VARIABLE, open_provider, provider_names
from prefect_video.providers.sora.plans import SORA_PLANS
from prefect_video.session import DEFAULT_IN_FLIGHT

PAGE: Final = Path(__file__).with_name("providers.md")


class Note(NamedTuple):
    """Facts about a provider that only its documents tell.

    Attributes:
        title: What it is.
        signed: How its webhooks are signed; None where it sends none.
        kept: How long a video can be fetched, where no code knows it.
        cancels: What can be cancelled, where anything can.
        price: Where its price comes from, where that is not the price table.
    """

    title: str
    signed: str | None
    kept: str = ""
    cancels: str = "yes"
    price: str = ""


_OWN: Final = "until the server restarts"

NOTES: Final[Mapping[str, Note]] = {
    "emulator": Note(
        "the embedded one: real MP4s",
        "HMAC-SHA256",
        "links are renewed",
        "to half way",
        price="nothing; booked as `sora`",
    ),
    "sora": Note("a server of the Sora dialect", "HMAC-SHA256", "links are renewed", "to half way"),
    "openai": Note("OpenAI, or a server that keeps to its document", "Standard Webhooks", "until `expires_at`"),
    "vllm_omni": Note("vLLM-Omni on your GPUs", None, _OWN),
    "sglang": Note("SGLang on your GPUs", None, f"{_OWN}, or in its bucket"),
    "trtllm": Note("TensorRT-LLM on your GPUs", None, _OWN),
    "litellm": Note("a LiteLLM proxy", None, "as at what it leads to"),
    "openrouter": Note("many models, one key", "HMAC-SHA256", "until `expires_at`", price="its own list of models"),
    "fal": Note("hundreds of models, one queue", "Ed25519, published keys", "not said (7 days)", "before it starts"),
    "replicate": Note("models of many owners", "Standard Webhooks"),
}

_LOOKUP: Final = {
    "key": "found by our key",
    "similarity": "found by similarity",
    "none": "**held for a human**",
}
_EMBEDDED: Final = {"PREFECT_VIDEO_EMULATOR_ENDPOINT": "http://host/v1/sora"}
"""Without it, the emulator would be started."""

Row = Sequence[str]


class Variables(dict[str, str]):
    """Environment that records which variables were read."""

    def __init__(self, given: Mapping[str, str]) -> None:
        super().__init__(given)
        self.names_read: list[str] = []

    def get(self, name: str, default: Any = None) -> Any:
        """Return a variable and record that it was read."""
        if name not in self.names_read:
            self.names_read.append(name)
        return super().get(name, default)

    def __getitem__(self, name: str) -> str:
        if name not in self.names_read:
            self.names_read.append(name)
        return super().__getitem__(name)


class Opened(NamedTuple):
    """A provider as a new user opens it.

    Attributes:
        provider: With an example's key and address.
        needed: Variables without which it does not open.
        taken: Variables that it reads besides.
    """

    provider: Provider
    needed: list[str]
    taken: list[str]


@cache
def opened(name: str) -> Opened:
    """Open a provider with just the variables that it insists on."""
    given = dict(_EMBEDDED) if name == "emulator" else {}
    environ = Variables(given)
    try:
        provider = open_provider(name, environ)
        needed: list[str] = []
    except InvalidInput as error:
        needed = re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", str(error))
        given |= {
            variable: "http://host/v1" if variable.endswith(("_URL", "_ENDPOINT")) else "key" for variable in needed
        }
        environ = Variables(given)
        provider = open_provider(name, environ)
    sends_none = NOTES[name].signed is None
    taken = [
        variable
        for variable in environ.names_read
        # Those two are read for every provider, and described below the table.
        if variable not in needed
        and variable != ACCOUNT_VARIABLE
        and not variable.endswith("_PREVIOUS")
        and not (sends_none and variable.endswith("WEBHOOK_SECRET"))
    ]
    return Opened(provider, needed, taken)


def abilities() -> Iterator[Row]:
    """Yield the rows of what each provider can do."""
    yield "provider", "what it is", "unanswered submit", "cancel", "list", "webhooks", "video is kept", "USD", "at once"
    for name in provider_names():
        note, offered = NOTES[name], opened(name).provider.capabilities
        yield (
            f"`{name}`",
            note.title,
            _LOOKUP[offered.lookup],
            note.cancels if offered.can_cancel else "no",
            "yes" if offered.can_list else "no",
            note.signed or "none",
            _kept(note, offered),
            note.price or _price(name, offered),
            f"{offered.concurrency} (plan)" if offered.concurrency else str(DEFAULT_IN_FLIGHT),
        )


def offers() -> Iterator[Row]:
    """Yield the rows of what shots the models of each provider make."""
    yield "provider", "model", "resolutions", "aspect ratios", "seconds", "besides"
    for name in provider_names():
        if name in _hosts():
            for model in _hosts()[name]:
                named = "any other" if model.match == "*" else f"`{model.match}`"
                yield f"`{name}`", named, *_shots(model.narrow(opened(name).provider.capabilities))
        elif name not in ("sora", "emulator"):
            named = "as its list says; else" if name == "openrouter" else "as the server has; else"
            yield f"`{name}`", named, *_shots(opened(name).provider.capabilities)


def plans() -> Iterator[Row]:
    """Yield the rows of what the plans of the Sora dialect allow."""
    yield "plan", "resolutions", "aspect ratios", "seconds", "besides", "at once", "videos a month"
    for plan, offered in SORA_PLANS.items():
        yield f"`{plan}`", *_shots(offered), str(offered.concurrency), str(offered.monthly_videos or "no limit")


def names() -> Iterator[Row]:
    """Yield the rows of how each provider is named and opened."""
    yield "provider", "block", "needs", "also reads"
    for name in provider_names():
        needed, taken = opened(name).needed, opened(name).taken
        yield f"`{name}`", _block(name), _code(needed, " ") or "nothing", _code(taken, " ") or "–"


TABLES: Final[Mapping[str, Callable[[], Iterable[Row]]]] = {
    "abilities": abilities,
    "names": names,
    "offers": offers,
    "plans": plans,
}


def page(text: str) -> str:
    """Return the page with each of its tables made anew."""

    def fill(match: re.Match[str]) -> str:
        return f"<!-- table: {match[1]} -->\n{_markdown(TABLES[match[1]]())}<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


def _markdown(rows: Iterable[Row]) -> str:
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _price(name: str, offered: Capabilities) -> str:
    listed = price_lists().get(name)
    if listed is None:
        return _span(offered.usd_per_second.values()) if offered.usd_per_second else "not known"
    models: list[Decimal] = []
    for price in listed.models.values():
        models.extend([price] if isinstance(price, Decimal) else price.values())
    scope = "" if "*" in listed.models else ", models of the price table"
    return f"{_span(models)}{scope}" if max(models) else "0, your GPU"


def _kept(note: Note, offered: Capabilities) -> str:
    """Say how long a video can be fetched; a link that has died is renewed until then."""
    hours = offered.retention.total_seconds() / 3600 if offered.retention else None
    fixed = f"{hours:g} hour{'' if hours == 1 else 's'} after the end" if hours else ""
    return ", ".join(filter(None, (note.kept, fixed)))


def _span(prices: Iterable[Decimal]) -> str:
    known = sorted(prices)
    return f"{known[0]} to {known[-1]} a second"


def _shots(offered: Capabilities) -> Row:
    longest = max(offered.sizes.values())
    by_size = [
        f"{size} to {most} s" if most < longest else size for size, most in sorted(offered.sizes.items(), key=_lines)
    ]
    seconds = [str(duration) for duration in offered.durations]
    whole = len(seconds) > 2 and list(offered.durations) == [*range(min(offered.durations), max(offered.durations) + 1)]
    span = f"{seconds[0]} to {seconds[-1]}" if whole else ", ".join(seconds)
    sizes = f"{by_size[0]} to {by_size[-1]}" if len(by_size) == len(ALL_RESOLUTIONS) else ", ".join(by_size)
    ratios = list(offered.aspect_ratios)
    if set(COMMON_RATIOS) <= set(ratios):
        ratios = ["the usual", *(ratio for ratio in ratios if ratio not in COMMON_RATIOS)]
    return (
        sizes,
        ", ".join(ratios),
        span or f"1 to {longest}",
        _besides(offered.optional_fields),
    )


def _lines(size: tuple[str, int]) -> int:
    return int(size[0].removesuffix("p"))


def _besides(fields: Collection[str]) -> str:
    left_out = [field for field in OPTIONAL_FIELDS if field not in fields]
    if set(fields) >= set(EXTRAS):
        return f"all but {_code(left_out)}" if left_out else "all"
    return _code([field for field in OPTIONAL_FIELDS if field in fields]) or "–"


def _block(name: str) -> str:
    return _blocks().get(name, "–")


@cache
def _blocks() -> Mapping[str, str]:
    """Return the block of each provider that has one."""
    found: dict[str, str] = {}
    for kind in (getattr(blocks, exported) for exported in blocks.__all__):
        if not issubclass(kind, ProviderCredentials):
            continue
        slug = f"`{kind.get_block_type_slug()}`"
        if "profile" in kind.model_fields:
            for profile in PROFILES:
                name = kind(api_key="key", base_url="http://host/v1", profile=profile).get_client().name
                found[name] = slug if profile == "generic" else f'{slug}, `profile="{profile}"`'
        else:
            address = {"endpoint": "http://host/v1"} if "endpoint" in kind.model_fields else {}
            found[kind(api_key="key", **address).get_client().name] = slug
    return found


@cache
def _hosts() -> Mapping[str, list[ModelInput]]:
    text = files("prefect_video.providers").joinpath("model_inputs.yaml").read_text(encoding="utf-8")
    read = yaml.safe_load(text)
    return {host: [ModelInput.model_validate(model) for model in read[host]["models"]] for host in read}


def _code(words: Iterable[str], separator: str = ", ") -> str:
    return separator.join(f"`{name}`" for name in words)


def main() -> None:
    """Print the page, or write it."""
    updated = page(PAGE.read_text(encoding="utf-8"))
    if "--write" in sys.argv:
        PAGE.write_text(updated, encoding="utf-8")
    else:
        print(updated, end="")


if __name__ == "__main__":
    main()
