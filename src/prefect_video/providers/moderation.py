"""Detection of content policy errors: a provider stopped a prompt or a video, in the error terms of any provider.

A blocked prompt is never sent again automatically but waits for a human. An error that merely mentions moderation, such
as a filter that could not be reached, is no block.
"""

from __future__ import annotations

import re
from typing import Final

_CODES: Final = frozenset(
    {
        *(
            "e005",
            "moderation",
            "moderated",
            "safety",
            "nsfw",
            "sensitive",
            "prohibited",
            "unsafe",
            "blocked",
            "policy",
        ),
        *("responsible_ai", "csam", "minors", "celebrity", "public_figure", "real_person", "violence", "gore"),
        *("nudity", "sexual", "hate", "self_harm", "weapons"),
    }
)
"""Codes that match as a whole."""

_IN_CODE: Final = re.compile(
    r"moderation|(?:^|_)moderated|nsfw|sentinel_block"
    r"|content_?(?:policy|filter|safety|security|violation|blocked|rejected|moderated)|(?:policy|guidelines?|copyright|terms)_violation"
    r"|sensitive_(?:content|words?|information|input|output)|(?:input|output|prompt|text|image|video)_sensitive"
    r"|prohibited_content|unsafe_content|(?:prompt|media|input|output)_(?:unsafe|blocked|flagged|rejected)"
    r"|(?:^|_)safety_(?:input|output|text|image|video|prompt|block|violation|filter|system|check)|(?:image|prompt|video)_safety"
    r"|data_inspection_failed|rai_(?:media_)?filter|guardrail|risk_control|infringement|audit_(?:submit_)?illegal"
    r"|(?:^|_)blocklist|(?:illegal|harmful)_content|harm_category|(?<!case)_sensitive$"
    r"|(?<!payment)(?<!fraud)(?<!account)(?<!billing)_risk$"
    r"|(?:^|_)csam(?:_|$)|child_(?:safety|abuse|exploitation)|responsible_ai|sexually_explicit"
    r"|(?:minors?|children|celebrity|celebrities|public_figures?|real_person|nudity|gore|violence|hate(?:_speech)?"
    r"|self_harm|weapons?)_(?:detected|blocked|rejected|violation|content)"
)
"""Parts of a code or type in small letters with underscores."""

_EXPLICIT: Final = re.compile(
    r"(?:blocked|rejected|refused|stopped|denied|declined|removed|filtered|flagged) (?:by|as a result of)"
    r" (?:[\w'’]+ ){0,3}(?:moderation|safety (?:system|filter|polic)|content (?:filter|polic)|guardrails?|risk control)"
    r"(?![^.;,(]{0,20}(?:tim(?:ed|e) ?out|unavailab|unreachab|overload|outage|error|fail))"
)
"""Terms of a message that name the moderation as the one that stopped it, whatever else the message mentions."""

_IN_MESSAGE: Final = re.compile(
    r"content[ _-]?(?:policy|policies|moderation|guidelines|restrictions?|safety polic)"
    r"|(?:blocked|rejected|refused|stopped|denied|declined|removed|filtered)\b[^.]{0,40}"
    r"\b(?:moderation|safety|content filter|guardrails?|sensitive|responsible ai|policy violation)"
    r"|moderation[ _](?:system|block(?:ed)?|filter|polic|violation|layer|reasons?)"
    r"|\b(?:prompts?|inputs?|outputs?|content|images?|videos?|requests?|media)\b[^.]{0,40}"
    r"\b(?:was|were|is|are|has been|have been|got) (?:flagged|moderated|deemed (?:unsafe|sensitive))"
    r"|flagged (?:as|for|by)\b|(?:potentially|possibly) (?:sensitive|unsafe|harmful)"
    r"|violat\w+[^.]{0,40}\b(?:content|usage|use|safety|community|moderation|responsible|acceptable|our)\b[^.]{0,20}"
    r"\b(?:polic|guideline|guardrail|rules?|terms|standards|practices)"
    r"|violat\w+(?:(?!\b(?:rate|quota|billing|limits?|retention|cors|origin|network|access)\b)[^.]){0,60}\bpolic(?:y|ies)"
    r"|\brisk[ _-]control|(?:not|n['’]t|fail\w*|unable)(?: to)? pass\w*\b[^.]{0,30}"
    r"\b(?:safety|moderation|risk|content (?:check|review|filter))|(?:content|prompt|request|video|image) moderated"
    r"|violat\w+[^.]{0,40}\bguardrails?\b|sensitive (?:content|words?|information|material)"
    r"|(?:prohibited|forbidden|inappropriate|nsfw|explicit|unsafe|harmful|disallowed)"
    r" (?:content|material|prompt|words?)"
    r"|nsfw (?:was )?detected|(?:copyright|copyrighted) (?:restrictions?|content|material|characters?)"
    r"|(?:triggered|by|through|with|against) (?:our |the |a )?safety (?:system|filter|polic|guideline)"
    r"|safety (?:system|filters?) (?:block|reject|refus|flag|stopp)"
    r"|\b(?:sentinel_block|moderation_blocked|content_filter|prohibited_content|content_policy_violation)\b"
    r"|(?:(?:can ?not|can['’]t|could not|couldn['’]t|unable to|not allowed to) (?:create|generate|make|depict|process)"
    r"|(?:depicts?|shows?|contains?|includes?))[^.]{0,40}"
    r"\b(?:public figures?|celebrit(?:y|ies)|real (?:people|persons?)|minors|child sexual|csam)\b"
    r"|(?:blocked|rejected|refused|declined): (?:content )?policy\b"
    r"|(?<!大小写)敏感|审核(?!中)|審核(?!中)|违规|違規|违禁|不合规|风控|违反[^。]{0,20}(?:规定|政策|准则|规范|法律|法规)"
)

_IN_OTHER_LANGUAGES: Final = re.compile(
    r"\bverst(?:ö|oe|o)(?:ss|ß)t?\w*\b[^.]{0,60}\w*(?:richtlini|regeln|bestimmung|bedingung|standards)"
    r"|\b(?:verletzt|verletzen)\b[^.]{0,60}\w*(?:richtlini|regeln)|(?:inhalts|nutzungs)richtlini|jugendschutz"
    r"|\b(?:unzulässig|anstössig|verboten|unangemessen)\w* inhalt"
    r"|\b(?:infring|incumpl|viola|vulnera)\w*\b[^.]{0,60}\b(?:pol[ií]tica|norma|directri|diretri|regla|regra|politich"
    r"|linee guida)"
    r"|\bconte[nú]\w+ (?:prohibido|inapropiad|inadecuad|proibido|sensible|sensível|ofensiv|no permitido|vietat)"
    r"|\b(?:enfrei|viole|violent|contrevien|contraire)\w*\b[^.]{0,60}\b(?:politique|règle|regle|condition|norme|charte)"
    r"|\bcontenu\w* (?:interdit|inapproprié|sensible|illicite|offensant)"
    r"|(?:ポリシー|ガイドライン|規約)[^。]{0,10}違反|不適切な|정책[^.]{0,10}위반|가이드라인[^.]{0,10}위반|부적절한"
    r"|наруша\w+[^.]{0,60}(?:политик|правил)|запрещ[её]нн\w+ (?:контент|содержим)"
)
"""Terms of a message in the languages that services answer in, besides English and Chinese."""

_ABOUT_LIMITS: Final = re.compile(
    r"\b(?:cuota|cota|quota|l[ií]mite|limite|tarifa|factura|pago|kontingent|raten|limit|zahlung|abrechnung|paiement"
    r"|facturation|débit|квот|лимит|оплат)"
)
"""Terms of policies about use and payment, not about content."""

_TECHNICAL: Final = re.compile(
    r"unavailable|unreachable|timed? ?out|overload|not (?:be )?(?:loaded|reached|available|configured|found|supported)"
    r"|(?:failed|unable) to (?:load|start|respond|connect|reach|initiali[sz]e|run)"
    r"|connection|out of memory|internal error|不可用|超时|繁忙|异常"
)
"""Terms that show that the moderation itself failed."""

_TECHNICAL_CODE: Final = re.compile(
    r"unavailable|unreachable|time_?d?_?out|overload|internal|connection|not_configured"
)


def is_moderation(code: str | None, type: str | None = None, message: str | None = None) -> bool:
    """Return whether an error means that a content policy stopped a prompt, an input or an output.

    Args:
        code: The error's code, such as `moderation_blocked` or `OutputVideoSensitiveContentDetected`.
        type: The error's type, such as `content_policy_violation`.
        message: The error's text, which counts where code and type are of no policy.
    """
    if any(_is_moderation_code(value) for value in (code, type) if value):
        return True
    text = (message or "")[:2000].casefold()
    if _EXPLICIT.search(text):
        return True
    is_foreign = _IN_OTHER_LANGUAGES.search(text) and not _ABOUT_LIMITS.search(text)
    return bool(_IN_MESSAGE.search(text) or is_foreign) and not _TECHNICAL.search(text)


def _is_moderation_code(code: str) -> bool:
    spelled = _to_snake_case(code)
    if spelled in _CODES:
        return True
    return bool(_IN_CODE.search(spelled)) and not _TECHNICAL_CODE.search(spelled)


def _to_snake_case(code: str) -> str:
    """Return a code in small letters, its parts joined by underscores: `SAFETY.INPUT.TEXT` is `safety_input_text`."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", code[:200])
    return re.sub(r"[^a-z0-9]+", "_", parted.casefold()).strip("_")
