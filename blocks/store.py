"""Block of a store: a folder or a bucket for videos."""

from __future__ import annotations

from prefect.blocks.core import Block
from pydantic import Field, SecretStr

from prefect_video.blocks.project_urls import DOCUMENTATION_URL, LOGO_URL
from prefect_video.storage import Store, open_store


class VideoStore(Block):
    """A folder or an S3 bucket that videos are published to.

    Without a key, the machine's own AWS credentials are used.

    Example:
        ```python
        from prefect_video.blocks import VideoStore

        VideoStore(url="s3://films/ads", endpoint_url="https://minio.example:9000", key="…", secret="…").save("films")
        ```
        Flows then take `store="video-store/films"`.
    """

    _block_type_name = "Video Store"
    _block_type_slug = "video-store"
    _description = "A folder or an S3 bucket that finished videos are published to, whole or not at all."
    _logo_url = LOGO_URL  # type: ignore[assignment]
    _documentation_url = DOCUMENTATION_URL  # type: ignore[assignment]

    url: str = Field(title="URL", description="`file:///folder` or `s3://bucket/prefix`.")
    key: SecretStr | None = Field(default=None, title="Access key id")
    secret: SecretStr | None = Field(default=None, title="Secret access key")
    endpoint_url: str | None = Field(default=None, title="Endpoint", description="Of an S3 server other than AWS.")
    region: str | None = Field(default=None, title="Region")
    public_base_url: str | None = Field(
        default=None,
        title="Public address",
        description="Web address of the folder or prefix, for links and stills in artifacts: `https://films.example/ads`.",
    )
    link_hours: int = Field(
        default=0,
        ge=0,
        le=168,
        title="Hours of signed links",
        description="Of artifacts to an S3 store without a public address; 0 for no links.",
    )

    def open(self) -> Store:
        """Open the store; close it with `aclose()`.

        Raises:
            InvalidInput: The URL is not one of a store.
        """
        options = {
            "key": self.key.get_secret_value() if self.key else None,
            "secret": self.secret.get_secret_value() if self.secret else None,
            "endpoint_url": self.endpoint_url,
            "region": self.region,
            "public_base_url": self.public_base_url,
            "link_hours": self.link_hours,
        }
        return open_store(self.url, options={name: value for name, value in options.items() if value})
