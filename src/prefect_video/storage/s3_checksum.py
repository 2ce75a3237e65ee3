"""Checksum of uploads to S3: MD5, or none where the server does not take it."""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from botocore.exceptions import ClientError

from prefect_video.storage.s3_errors import is_unsupported

_log: Final = logging.getLogger(__name__)


def md5_of(body: bytes) -> str:
    """Return the MD5 of a request's body in base64, as the header `Content-MD5` holds it."""
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


class UploadChecksum:
    """The checksum that the uploads to one store send, by which the server checks the bytes that it receives.

    Args:
        url: The store's address, for the log.

    Attributes:
        is_refused: The server does not take the header; the size of the object is compared all the same.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self.is_refused = False

    async def send(self, request: Callable[..., Awaitable[Any]], digest: str, **parameters: Any) -> Any:
        """Send a request with the MD5 of its body; send it again without where the server refuses the header.

        Args:
            request: A method of the S3 client.
            digest: The MD5 in base64.
            **parameters: The parameters of the request.

        Raises:
            ClientError: The server refuses the request for another reason.
        """
        if not self.is_refused:
            try:
                return await request(**parameters, ContentMD5=digest)
            except ClientError as error:
                # It seldom says which header: the second request shows if it was this one.
                if not is_unsupported(error):
                    raise
        response = await request(**parameters)
        if not self.is_refused:
            self.is_refused = True
            _log.warning(
                "%s: the server does not take Content-MD5, so that uploads go without a checksum and only their size"
                " is compared",
                self._url,
            )
        return response
