"""Webhooks: receiving providers' deliveries, keeping them, and handling each once."""
