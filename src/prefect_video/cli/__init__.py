"""The `prefect-video` command: one module of `commands` per command, and what they share.

The top of the house beside the service: may import every room and the Prefect folders, Prefect itself only when a
command needs it.
"""

import gc

# What is imported lives until the command ends: a command that looks for garbage in it, again and again, takes 0.3 s.
gc.disable()
try:
    from prefect_video.cli.app import main
finally:
    gc.enable()
gc.freeze()

__all__ = [
    "main",
]
