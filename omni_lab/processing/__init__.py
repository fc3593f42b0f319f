"""Files and arrays -> tensors: chat template, image, audio, video, and the one OmniProcessor."""

from .processor import OmniProcessor

__all__ = ["OmniProcessor"]
