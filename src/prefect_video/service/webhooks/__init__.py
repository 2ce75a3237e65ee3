"""Webhooks: receiving providers' deliveries, keeping them, and handling each once.

May import what the service may, and of the service its sessions, settings and metrics; never the application that
mounts it, nor the job API.
"""

from prefect_video.service.webhooks.document import describe_webhooks
from prefect_video.service.webhooks.handler import handle
from prefect_video.service.webhooks.inbox import Inbox
from prefect_video.service.webhooks.routes import WebhookReceiver, webhook_routes
from prefect_video.service.webhooks.workers import Workers

__all__ = ["Inbox", "WebhookReceiver", "Workers", "describe_webhooks", "handle", "webhook_routes"]
