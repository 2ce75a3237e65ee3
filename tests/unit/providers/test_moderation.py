"""Blocked prompts are recognised in the error terms of any provider, and errors of other kinds are not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_video.providers.moderation import is_moderation

CODES = (
    "OutputVideoSensitiveContentDetected",
    "OutputVideoSensitiveContentDetected.PolicyViolation",
    "InputTextSensitiveContentDetected",
    "InputImageSensitiveContentDetected",
    "content_filter",
    "PROHIBITED_CONTENT",
    "SAFETY",
    "SAFETY.INPUT.TEXT",
    "SAFETY.OUTPUT.VIDEO",
    "INPUT_PREPROCESSING.SAFETY.TEXT",
    "sentinel_block",
    "content_policy_violation",
    "moderation_blocked",
    "moderation_failed",
    "nsfw",
    "NSFW_CONTENT_DETECTED",
    "E005",
    "ContentPolicyViolationError",
    "DataInspectionFailed",
    "IMAGE_SAFETY",
    "prompt_unsafe",
    "INPUT_MEDIA_UNSAFE",
    "model_moderated",
    "err_sensitive",
    "InvalidParameter.Sensitive",
    "InputTextRisk",
    "OutputVideoRisk",
    "BLOCKED",
    "ContentRejected",
    "illegal_content",
    "csam",
    "CSAM_DETECTED",
    "celebrity_detected",
    "minors_detected",
    "violence",
    "HATE_SPEECH_DETECTED",
    "RESPONSIBLE_AI",
    "POLICY",
    "public_figure",
)
MESSAGES = (
    "Your request was blocked by our moderation system.",
    "This content may violate our guardrails concerning similarity to third-party content.",
    "This content may violate our content policies.",
    "Prompt violates content policy",
    "The input or output was flagged as sensitive. Please try again with different inputs. (E005) (uIJ6l3ruRD)",
    "The request failed because the output video may be related to copyright restrictions.",
    "The content was flagged by a content checker.",
    "The prompt was flagged",
    "NSFW content detected. Try running it again, or try a different prompt.",
    "Your request was rejected as a result of our safety system.",
    "the prompt contains sensitive words that violate Google's Responsible AI practices",
    "Text contains prohibited content",
    "Your request was blocked by our moderation system; internal error code 7",
    "Rejected by moderation. The connection was closed",
    "The output was filtered by Google's content filter (internal error 3)",
    "Failure to pass the risk control system",
    "This prompt contains words that violate Vertex AI's policies",
    "The request violates one or more of the platform's published policies",
    "did not pass our safety checks",
    "The video was removed because it did not pass moderation",
    "The image failed to pass the risk check",
    "Prompt contains forbidden words",
    "Content moderated",
    "输入内容包含敏感信息，请修改后重试",
    "审核不通过",
    "内容违规",
    "内容违反平台规定",
    "We can't generate videos of public figures",
    "The request depicts a real person without consent",
    "Video generation was rejected: policy",
    "Inhalt verstößt gegen unsere Richtlinien",
    "Ihre Eingabe verletzt die Nutzungsrichtlinien",
    "El contenido infringe nuestras políticas",
    "La solicitud viola las normas de la comunidad",
    "Contenido inapropiado",
    "Votre demande enfreint nos règles d'utilisation",
    "O conteúdo viola nossas diretrizes",
    "La richiesta viola le nostre linee guida",
    "ガイドラインに違反しています",
    "콘텐츠 정책을 위반했습니다",
    "Запрос нарушает правила сервиса",
)
OTHER_CODES = (
    "error",
    "generation_failed",
    "rate_limit_exceeded",
    "invalid_request_error",
    "internal_error",
    "insufficient_quota",
    "INTERNAL.BAD_OUTPUT.CODE01",
    "timeout",
    "moderation_unavailable",
    "moderation_service_timeout",
    "safety_checker_internal_error",
    "content_type_error",
    "invalid_content_type",
    "E1000",
    "400",
    "policy_not_found",
    "retention_policy",
    "case_sensitive",
    "fraud_risk",
    "account_blocked",
    "face_not_detected",
    "limits",
    "hateful_timeout_internal",
    "",
)
OTHER_MESSAGES = (
    "The model gave up on this prompt",
    "CUDA out of memory",
    "Internal generation failure",
    "The safety checker could not be loaded: connection refused",
    "The moderation service is unavailable, try again",
    "Moderation system timed out",
    "Rate limit policy exceeded",
    "This request violates the rate limit of your plan",
    "Content length is too large",
    "The video content could not be decoded",
    "duration must be at most 20",
    "blocked by CORS policy",
    "The output was empty",
    "prompt is required",
    "seed is sensitive to hardware",
    "The request was rejected because the moderation service is unavailable",
    "Rejected by the moderation service timeout",
    "Failed: the risk control service timed out",
    "This request violates the rate limit policy",
    "审核服务不可用，请稍后重试",
    "参数名大小写敏感",
    "La solicitud viola la política de límite de cuota",
    "Die Anfrage verstößt gegen die Kontingent-Richtlinie",
    "El contenido no se pudo descargar",
    "Der Inhalt konnte nicht geladen werden",
    "a celebrity endorsement code is required",
)


@pytest.mark.parametrize("code", CODES)
def test_codes_and_types_that_tell_of_a_block(code: str) -> None:
    assert is_moderation(code)
    assert is_moderation("error", code, "no reason given")
    assert is_moderation(code.upper() if "_" in code else code)


@pytest.mark.parametrize("message", MESSAGES)
def test_messages_that_tell_of_a_block(message: str) -> None:
    assert is_moderation("error", "invalid_request_error", message)
    assert is_moderation(None, None, message.upper())


@pytest.mark.parametrize("code", OTHER_CODES)
def test_codes_of_another_kind(code: str) -> None:
    assert not is_moderation(code, code, "it failed")


@pytest.mark.parametrize("message", OTHER_MESSAGES)
def test_messages_of_another_kind(message: str) -> None:
    assert not is_moderation("error", "server_error", message)


@given(st.none() | st.text(), st.none() | st.text(), st.none() | st.text())
def test_any_words_are_answered(code: str | None, kind: str | None, message: str | None) -> None:
    assert is_moderation(code, kind, message) in (True, False)
