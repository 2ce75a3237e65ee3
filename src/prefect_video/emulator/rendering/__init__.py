"""Rendering: real MP4s and thumbnails, drawn and encoded from the specification of a clip.

May import the emulator's generations and settings. PyAV and Pillow are imported with the first clip only.
"""

from prefect_video.emulator.rendering.clips import ClipLibrary
from prefect_video.emulator.rendering.image_folder import ImageFolder
from prefect_video.emulator.rendering.spec import Clip, ClipSpec

__all__ = ["Clip", "ClipLibrary", "ClipSpec", "ImageFolder"]
