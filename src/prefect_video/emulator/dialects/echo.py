"""How a provider tells prompts again that it was sent: not every one keeps to the letter."""

from __future__ import annotations

import unicodedata
from typing import Final, Literal

PromptEcho = Literal["exact", "collapsed", "nfc", "lower", "cut", "rewritten", "none"]

CUT_AT: Final = 20
REWRITTEN: Final = "Cinematic, "


def echo_prompt(prompt: str, echo: PromptEcho) -> str | None:
    """Return a prompt as the provider tells it; None where it does not."""
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
        case "none":
            return None
