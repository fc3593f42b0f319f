"""The model in real time: `stream` a reply while it is thought, `Session` a conversation while it is heard."""

from .account import SOURCES, Account
from .events import AudioChunk, TextDelta
from .reply import ReplyStream, stream, stream_inputs
from .session import Session

__all__ = ["SOURCES", "Account", "AudioChunk", "ReplyStream", "Session", "TextDelta", "stream", "stream_inputs"]
