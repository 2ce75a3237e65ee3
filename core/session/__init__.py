"""The session: provider, ledger, store and settings that are open together."""
