"""How an S3 client is set up: credentials, endpoint and the options that S3's many servers need."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from prefect_video.errors import InvalidInput

_PLAIN: Final = frozenset({"key", "secret", "token", "profile", "endpoint_url", "region", "anon"})
_NESTED: Final = frozenset({"client_kwargs", "config_kwargs", "s3_additional_kwargs"})


@dataclass(frozen=True)
class S3Options:
    """What an operator may set; the names are those of s3fs.

    Attributes:
        endpoint_url: Address of the server; None for AWS itself.
        region: The bucket's region.
        on_write: Parameters of every request that creates an object, such as `ServerSideEncryption`.
        filesystem: Everything else that `s3fs.S3FileSystem` takes; holds secrets.
    """

    endpoint_url: str | None
    region: str | None
    on_write: dict[str, Any]
    filesystem: dict[str, Any] = field(repr=False)

    @classmethod
    def read(cls, options: Mapping[str, Any]) -> S3Options:
        """Reads options, the environment filling in for those that are not given.

        Raises:
            InvalidInput: An option is unknown, or only one half of a key is given.
        """
        given = {name: _revealed(value) for name, value in options.items() if value is not None}
        if unknown := given.keys() - _PLAIN - _NESTED:
            known = ", ".join(sorted(_PLAIN | _NESTED))
            raise InvalidInput(f"S3 store: unknown option {sorted(unknown)[0]!r}; there are {known}")
        if ("key" in given) != ("secret" in given):
            raise InvalidInput("S3 store: give both key and secret, or neither to use the environment's")
        environment = os.environ
        endpoint = given.pop("endpoint_url", None) or (
            environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or None
        )
        region = given.pop("region", None) or (
            environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or None
        )
        return cls(endpoint, region, dict(given.pop("s3_additional_kwargs", {})), given)


class S3Session:
    """One S3 client for each event loop, opened on first use.

    A connection belongs to the loop that opened it, and Prefect runs tasks in more than one.
    """

    def __init__(self, options: S3Options) -> None:
        self.options = options
        self._filesystems: dict[asyncio.AbstractEventLoop, Any] = {}

    async def client(self) -> Any:
        """The aiobotocore client of the running loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._filesystems:
            self._filesystems = {
                known: filesystem for known, filesystem in self._filesystems.items() if not known.is_closed()
            }
            made = await asyncio.to_thread(_filesystem, self.options, loop)
            # Another task of this loop may have been quicker; what is not connected needs no closing.
            self._filesystems.setdefault(loop, made)
        return await self._filesystems[loop].set_session()

    async def aclose(self) -> None:
        """Closes the connections of the running loop."""
        filesystem = self._filesystems.pop(asyncio.get_running_loop(), None)
        if filesystem is not None:
            await (await filesystem.set_session()).close()


def _filesystem(options: S3Options, loop: asyncio.AbstractEventLoop) -> Any:
    import s3fs

    config: dict[str, Any] = {
        "connect_timeout": 10,
        "read_timeout": 60,
        "retries": {"mode": "standard", "max_attempts": 4},
        "max_pool_connections": 32,
    }
    client: dict[str, Any] = {"region_name": options.region} if options.region else {}
    if options.endpoint_url:
        # Other servers than AWS: buckets are no host names there, and newer checksums are not understood.
        config["s3"] = {"addressing_style": "path"}
        config["signature_version"] = "s3v4"
        config["request_checksum_calculation"] = "when_required"
        config["response_checksum_validation"] = "when_required"
        client.setdefault("region_name", "us-east-1")
    rest = dict(options.filesystem)
    config |= rest.pop("config_kwargs", {})
    client |= rest.pop("client_kwargs", {})
    return s3fs.S3FileSystem(
        session=_aws_session(rest.pop("profile", None)),
        asynchronous=True,
        loop=loop,
        skip_instance_cache=True,
        use_listings_cache=False,
        endpoint_url=options.endpoint_url,
        client_kwargs=client,
        config_kwargs=config,
        **rest,
    )


def _aws_session(profile: str | None) -> Any:
    """A session with the credentials of its own, and with descriptions of S3 that all sessions share."""
    from aiobotocore.session import AioSession

    session = AioSession(profile=profile)
    session.register_component("data_loader", _descriptions(session.get_config_variable("data_path")))
    return session


@cache
def _descriptions(search_path: str | None) -> Any:
    """What botocore knows of S3 and its endpoints: megabytes of JSON, which each session would read again."""
    from botocore.loaders import create_loader

    return create_loader(search_path)


def _revealed(value: Any) -> Any:
    """A pydantic secret's value, so that options can come straight from a block."""
    reveal = getattr(value, "get_secret_value", None)
    return reveal() if callable(reveal) else value
