"""Job API: requests for videos, and what became of them."""
