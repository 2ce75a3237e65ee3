"""S3 client: credentials, endpoint, and the options that S3-compatible servers need."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from prefect_video._proxies import is_in_exempt_range
from prefect_video.errors import InvalidInput

_PLAIN: Final = frozenset({"key", "secret", "token", "profile", "endpoint_url", "region", "anon"})
_NESTED: Final = frozenset({"client_kwargs", "config_kwargs", "s3_additional_kwargs"})


@dataclass(frozen=True)
class S3Options:
    """Options of an S3 store, under the names of s3fs.

    Attributes:
        endpoint_url: Address of the server; None for AWS itself.
        region: Region of the bucket.
        on_write: Parameters of every request that creates an object, such as `ServerSideEncryption`.
        filesystem: All other options of `s3fs.S3FileSystem`; holds secrets.
    """

    endpoint_url: str | None
    region: str | None
    on_write: dict[str, Any]
    filesystem: dict[str, Any] = field(repr=False)

    @classmethod
    def read(cls, options: Mapping[str, Any]) -> S3Options:
        """Validate options; endpoint and region default to those of the environment.

        Raises:
            InvalidInput: An option is unknown, or only one half of a key is given.
        """
        given = {name: _reveal(value) for name, value in options.items() if value is not None}
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
    """S3 clients of a store, one for each event loop, opened on first use.

    A connection belongs to the loop that opened it, and a host may run tasks in more than one loop.
    """

    def __init__(self, options: S3Options) -> None:
        self.options = options
        self._filesystems: dict[asyncio.AbstractEventLoop, Any] = {}
        self._locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    async def client(self) -> Any:
        """Return the aiobotocore client of the running loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._filesystems:
            # A closed loop can no longer close its connections: drop them.
            self._filesystems = {
                other: filesystem for other, filesystem in self._filesystems.items() if not other.is_closed()
            }
            filesystem = await asyncio.to_thread(_create_filesystem, self.options, loop)
            # Another task of this loop may have been faster; an unconnected filesystem needs no closing.
            self._filesystems.setdefault(loop, filesystem)
        return await self._filesystems[loop].set_session()

    def lock(self) -> asyncio.Lock:
        """Return the running loop's lock for requests that must not be sent side by side."""
        return self._locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())

    async def aclose(self) -> None:
        """Close the connections of the running loop."""
        filesystem = self._filesystems.pop(asyncio.get_running_loop(), None)
        if filesystem is not None:
            await (await filesystem.set_session()).close()


def _create_filesystem(options: S3Options, loop: asyncio.AbstractEventLoop) -> Any:
    import s3fs

    config: dict[str, Any] = {
        "connect_timeout": 10,
        "read_timeout": 60,
        "retries": {"mode": "standard", "max_attempts": 4},
        "max_pool_connections": 32,
    }
    client: dict[str, Any] = {"region_name": options.region} if options.region else {}
    if options.endpoint_url:
        # Servers other than AWS have no host name for each bucket and do not know the newer checksums.
        config["s3"] = {"addressing_style": "path"}
        config["signature_version"] = "s3v4"
        config["request_checksum_calculation"] = "when_required"
        config["response_checksum_validation"] = "when_required"
        client.setdefault("region_name", "us-east-1")
        if is_in_exempt_range(urlsplit(options.endpoint_url).hostname or ""):
            # botocore takes a range in `no_proxy` for a name.
            config["proxies"] = {}
    rest = dict(options.filesystem)
    config |= rest.pop("config_kwargs", {})
    client |= rest.pop("client_kwargs", {})
    return s3fs.S3FileSystem(
        session=_create_session(rest.pop("profile", None)),
        asynchronous=True,
        loop=loop,
        skip_instance_cache=True,
        use_listings_cache=False,
        endpoint_url=options.endpoint_url,
        client_kwargs=client,
        config_kwargs=config,
        **rest,
    )


def _create_session(profile: str | None) -> Any:
    """Return a session with its own credentials and with the service descriptions that all sessions share."""
    from aiobotocore.session import AioSession

    session = AioSession(profile=profile)
    session.register_component("data_loader", _load_descriptions(session.get_config_variable("data_path")))
    return session


@cache
def _load_descriptions(search_path: str | None) -> Any:
    """Return botocore's loader of service descriptions: megabytes of JSON that each session would parse again."""
    from botocore.loaders import create_loader

    return create_loader(search_path)


def _reveal(value: Any) -> Any:
    """Return the value of a pydantic secret, so that a block's options can be passed on; other values unchanged."""
    get_secret_value = getattr(value, "get_secret_value", None)
    return get_secret_value() if callable(get_secret_value) else value
