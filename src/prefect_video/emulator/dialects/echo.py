"""Forms in which a provider reports a prompt; not every provider returns it unchanged."""

from __future__ import annotations

import json
import unicodedata
from typing import Final, Literal

PromptEcho = Literal[
    "exact", "collapsed", "nfc", "lower", "cut", "rewritten", "other_words", "mojibake", "escaped", "redacted", "none"
]

CUT_AT: Final = 20
REWRITTEN: Final = "Cinematic, "
OTHER_WORDS: Final = "Un film court, tourné au crépuscule"
REDACTED: Final = "[redacted]"


def echo_prompt(prompt: str, echo: PromptEcho) -> str | None:
    """Return a prompt in the form in which the provider reports it; None if it reports none."""
    match echo:
        case "exact":
            return prompt
        case "collapsed":
            return " ".join(prompt.split())
        case "nfc":
            return unicodedata.normalize("NFC", prompt)
        case "lower":
            return prompt.lower()
        case "cut":
            return prompt[:CUT_AT]
        case "rewritten":
            return REWRITTEN + prompt
        case "other_words":
            return OTHER_WORDS
        case "mojibake":
            return prompt.encode().decode("latin-1")
        case "escaped":
            return json.dumps(prompt)[1:-1]
        case "redacted":
            return REDACTED
        case "none":
            return None
