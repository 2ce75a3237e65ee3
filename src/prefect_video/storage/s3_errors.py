"""Translation of the errors of S3 and its client into a `StoreError` that says what to do.

The server's own text is left out of the message: some servers quote the key in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    ResponseStreamingError,
    SSLError,
)

from prefect_video._proxies import is_in_exempt_range, proxy_variable
from prefect_video.errors import StoreError

_CUT: Final = (aiohttp.ClientPayloadError, IncompleteReadError, ResponseStreamingError)
"""Errors of an answer whose body ended early."""

_NO_BUCKET: Final = "there is no such bucket; create it, or correct the store's address"
_DENIED: Final = (
    "access denied; grant s3:GetObject, s3:PutObject, s3:DeleteObject, s3:ListBucket and"
    " s3:AbortMultipartUpload on the bucket"
)
_WRONG_KEY: Final = "the access key is not known there; correct the store's key or the environment's"
_WRONG_SECRET: Final = "the secret does not match the access key; correct the store's secret"
_TOKEN: Final = "the session token is expired or wrong; log in again or use other credentials"
_REGION: Final = "the bucket is in another region; set the store's region"

_PERMANENT: Final[dict[str, str]] = {
    "NoSuchBucket": _NO_BUCKET,
    "InvalidBucketName": "the bucket's name is not valid; correct the store's address",
    "AccessDenied": _DENIED,
    "AllAccessDisabled": _DENIED,
    "403": "access denied; check the key and secret, and that s3:ListBucket and s3:GetObject are granted",
    "Forbidden": _DENIED,
    "InvalidAccessKeyId": _WRONG_KEY,
    "InvalidToken": _TOKEN,
    "ExpiredToken": _TOKEN,
    "SignatureDoesNotMatch": _WRONG_SECRET,
    "AuthorizationHeaderMalformed": _REGION,
    "PermanentRedirect": _REGION,
    "301": _REGION,
    "400": "the request was refused; check the endpoint, the region and the key",
    "KMS.DisabledException": "the bucket's encryption key is disabled; enable it or use another key",
    "EntityTooLarge": "the file is larger than the server takes",
    "RequestTimeTooSkewed": "this machine's clock is wrong; correct it",
}
_TRANSIENT: Final[dict[str, str]] = {
    "SlowDown": "the server asks to slow down; try again later",
    "ServiceUnavailable": "the server is not available; try again later",
    "503": "the server is not available; try again later",
    "InternalError": "the server failed; try again later",
    "500": "the server failed; try again later",
    "RequestTimeout": "the connection was too slow; try again",
    "BadDigest": "the data was damaged on the way; try again",
    "InvalidDigest": "the data was damaged on the way; try again",
    "XMinioStorageFull": "the server's disk is full; free some space there",
    "QuotaExceeded": "the server's quota is used up; free some space there",
    "NoSuchKey": "there is no such object",
    "404": "there is no such object or bucket",
    "NoSuchUpload": "the upload was ended by another process; try again",
}


def is_missing(error: ClientError) -> bool:
    """Return True if there is no such object."""
    return _read_code(error) in ("404", "NoSuchKey", "NotFound")


def is_forbidden(error: ClientError) -> bool:
    """Return True if the key may not do this."""
    return _read_code(error) in ("403", "AccessDenied", "Forbidden")


def is_taken(error: ClientError) -> bool:
    """Return True if the object to create exists already, or is being created by another writer."""
    return _read_code(error) in ("PreconditionFailed", "412", "ConditionalRequestConflict", "409")


def is_unsupported(error: ClientError) -> bool:
    """Return True if the server does not support a header of the request."""
    return _read_code(error) in ("NotImplemented", "501")


def is_cut(error: BaseException) -> bool:
    """Return True if the answer ended before all of the bytes that its header states."""
    return isinstance(error, _CUT)


def is_missing_upload(error: BaseException) -> bool:
    """Return True if the multipart upload no longer exists."""
    return isinstance(error, ClientError) and _read_code(error) == "NoSuchUpload"


def build_missing_bucket_error(bucket: str) -> StoreError:
    """Return the error for a bucket that does not exist."""
    return _build_error(f"use s3://{bucket}", _NO_BUCKET, retryable=False)


@contextmanager
def translate_errors(action: str, endpoint_url: str | None) -> Iterator[None]:
    """Translate every error of S3 and its client in the block into a `StoreError`.

    Args:
        action: What the block does, such as `publish s3://bucket/key`, for the message.
        endpoint_url: The server's address; None for AWS.

    Raises:
        StoreError: The block failed.
    """
    try:
        yield
    except ClientError as error:
        code = _read_code(error)
        advice = _PERMANENT.get(code) or _TRANSIENT.get(code) or f"the server answered {code}"
        raise _build_error(action, advice, retryable=code not in _PERMANENT) from error
    except (NoCredentialsError, PartialCredentialsError, ProfileNotFound) as error:
        advice = (
            "no complete credentials; give the store key and secret, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
        raise _build_error(action, advice, retryable=False) from error
    except (NoRegionError, ParamValidationError) as error:
        raise _build_error(
            action, f"the store's options are not right ({type(error).__name__})", retryable=False
        ) from error
    except SSLError as error:
        advice = (
            f"{_format_endpoint(endpoint_url)} has no valid certificate; correct the endpoint or trust its certificate"
        )
        raise _build_error(action, advice, retryable=False) from error
    except _CUT as error:
        advice = f"the answer of {_format_endpoint(endpoint_url)} was cut off; try again"
        raise _build_error(action, advice, retryable=True) from error
    except (ConnectionError, HTTPClientError, aiohttp.ClientError, TimeoutError) as error:
        advice = (
            f"{_format_endpoint(endpoint_url)} cannot be reached{_format_proxy(endpoint_url)};"
            " check the endpoint and the network"
        )
        raise _build_error(action, advice, retryable=True) from error
    except BotoCoreError as error:
        raise _build_error(action, f"the S3 client failed ({type(error).__name__})", retryable=True) from error
    except OSError as error:
        advice = f"{error.filename or 'a local file'}: {error.strerror or type(error).__name__}"
        raise _build_error(action, advice, retryable=True) from error


def _build_error(action: str, advice: str, *, retryable: bool) -> StoreError:
    error = StoreError(f"cannot {action}: {advice}")
    error.retryable = retryable
    return error


def _read_code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "an unnamed error"))


def _format_proxy(endpoint_url: str | None) -> str:
    url = urlsplit(endpoint_url or "https://")
    variable = None if is_in_exempt_range(url.hostname or "") else proxy_variable(url.scheme)
    return f" through the proxy in {variable} (S3 takes http proxies only)" if variable else ""


def _format_endpoint(endpoint_url: str | None) -> str:
    if endpoint_url is None:
        return "S3"
    # Without user info, which would be a secret.
    parts = urlsplit(endpoint_url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
