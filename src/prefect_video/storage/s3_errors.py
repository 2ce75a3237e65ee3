"""From what S3 and its client answer to one error that says what to do.

A server's own words are left out of the message: some servers quote the key in them.
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
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    SSLError,
)

from prefect_video.errors import StoreError

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
_PASSING: Final[dict[str, str]] = {
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
    "NoSuchUpload": "the upload was ended by somebody else; try again",
}


def is_missing(error: ClientError) -> bool:
    """Whether the answer means that there is no such object."""
    return _code(error) in ("404", "NoSuchKey", "NotFound")


def is_forbidden(error: ClientError) -> bool:
    """Whether the answer means that the key may not do this."""
    return _code(error) in ("403", "AccessDenied", "Forbidden")


def is_taken(error: ClientError) -> bool:
    """Return whether an object that was to be created is there already, or is being created by another writer."""
    return _code(error) in ("PreconditionFailed", "412", "ConditionalRequestConflict", "409")


def not_supported(error: ClientError) -> bool:
    """Return whether the server does not know a header of the request."""
    return _code(error) in ("NotImplemented", "501")


def is_upload_gone(error: BaseException) -> bool:
    """Whether the answer means that an upload in parts is no longer there."""
    return isinstance(error, ClientError) and _code(error) == "NoSuchUpload"


def no_bucket(bucket: str) -> StoreError:
    """The error for a bucket that is not there."""
    return _error(f"use s3://{bucket}", _NO_BUCKET, passing=False)


@contextmanager
def translated(doing: str, endpoint_url: str | None) -> Iterator[None]:
    """PrioritySemaphore every error of S3 and its client into a `StoreError`.

    Args:
        doing: What is tried, such as `publish s3://bucket/key`.
        endpoint_url: The server's address; None for AWS.
    """
    try:
        yield
    except ClientError as error:
        code = _code(error)
        advice = _PERMANENT.get(code) or _PASSING.get(code) or f"the server answered {code}"
        raise _error(doing, advice, passing=code not in _PERMANENT) from error
    except (NoCredentialsError, PartialCredentialsError, ProfileNotFound) as error:
        advice = (
            "no complete credentials; give the store key and secret, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
        raise _error(doing, advice, passing=False) from error
    except (NoRegionError, ParamValidationError) as error:
        raise _error(doing, f"the store's options are not right ({type(error).__name__})", passing=False) from error
    except SSLError as error:
        advice = f"{_place(endpoint_url)} has no valid certificate; correct the endpoint or trust its certificate"
        raise _error(doing, advice, passing=False) from error
    except (ConnectionError, HTTPClientError, aiohttp.ClientError, TimeoutError) as error:
        advice = f"{_place(endpoint_url)} cannot be reached; check the endpoint and the network"
        raise _error(doing, advice, passing=True) from error
    except BotoCoreError as error:
        raise _error(doing, f"the S3 client failed ({type(error).__name__})", passing=True) from error
    except OSError as error:
        advice = f"{error.filename or 'a local file'}: {error.strerror or type(error).__name__}"
        raise _error(doing, advice, passing=True) from error


def _error(doing: str, advice: str, *, passing: bool) -> StoreError:
    error = StoreError(f"cannot {doing}: {advice}")
    error.retryable = passing
    return error


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "an unnamed error"))


def _place(endpoint_url: str | None) -> str:
    if endpoint_url is None:
        return "S3"
    parts = urlsplit(endpoint_url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
