"""One training or test example, in the chat format of the ecosystem with the media inline."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from ..errors import DataError
from ..processing.thoughts import thoughtful

HEARING_RATE = 16_000  # Hz: what the audio encoder hears
SPEAKING_RATE = 24_000  # Hz: what the vocoder speaks


@dataclass
class Sample:
    """A dialogue up to the model's turn, and the answer wanted there.

    messages: `[{"role": "user", "content": [{"type": "image", "image": PIL.Image}, {"type": "text", "text": ...}]}]`;
        audio is `{"type": "audio", "audio": float32 (samples,) at 16 kHz}`; video is `{"type": "video", "video":
        {"frames": uint8 (T, H, W, 3), "fps": float, "audio": float32 (samples,) or None, "sample_rate": 16000}}`.
    answer: the assistant's text.
    thought: what is looked up before the answer is known, such as "dog red" where a colour is asked; "": nothing is.
    speech: the answer spoken, float32 (samples,) at 24 kHz, or None for an answer that is only written.
    speaker: name in `speech.SPEAKERS` whose voice `speech` has, or None.
    meta: what a grader needs: "key" (the content by which train and test are told apart), and the task's own fields.
    """

    messages: list[dict[str, Any]]
    task: str
    answer: str
    speech: np.ndarray | None = None
    speaker: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    thought: str = ""

    @property
    def reply(self) -> str:
        """What a model that thinks first is taught to say: the thought between its tags, and the answer."""
        return thoughtful(self.thought, self.answer)


def user(text: str, *media: dict[str, Any]) -> dict[str, Any]:
    """One user turn: the media first, then the text (none for an empty string), as in the reference's examples."""
    content = list(media)
    if text:
        content.append({"type": "text", "text": text})
    return {"role": "user", "content": content}


def assistant(text: str) -> dict[str, Any]:
    """One turn of the model, already said."""
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def image(picture: Image.Image) -> dict[str, Any]:
    """A picture as part of a turn."""
    return {"type": "image", "image": picture}


def audio(wave: np.ndarray) -> dict[str, Any]:
    """Sound, float32 (samples,) at 16 kHz, as part of a turn."""
    return {"type": "audio", "audio": np.ascontiguousarray(wave, dtype=np.float32)}


def video(frames: np.ndarray, fps: float, sound: np.ndarray | None = None) -> dict[str, Any]:
    """A video as part of a turn: frames uint8 (T, H, W, 3), and its sound track at 16 kHz or None."""
    track = None if sound is None else np.ascontiguousarray(sound, dtype=np.float32)
    return {
        "type": "video",
        "video": {"frames": frames, "fps": float(fps), "audio": track, "sample_rate": HEARING_RATE},
    }


def check(sample: Sample) -> Sample:
    """Return `sample`, or raise DataError naming what no model could learn from (empty answer, NaN, empty media)."""
    if not sample.answer.strip():
        raise DataError(f"{sample.task}: the answer is empty")
    if sample.speech is not None:
        check_wave(sample.speech, f"{sample.task}: spoken answer")
    for message in sample.messages:
        parts = message["content"]
        for part in [] if isinstance(parts, str) else parts:
            check_part(part, sample.task)
    return sample


def check_part(part: dict[str, Any], task: str) -> None:
    """Raise DataError when one part of a turn is empty or not finite."""
    kind = part.get("type")
    if kind == "image" and isinstance(part["image"], Image.Image) and min(part["image"].size) < 2:
        raise DataError(f"{task}: a picture of {part['image'].size} pixels")
    if kind == "audio" and isinstance(part["audio"], np.ndarray):
        check_wave(part["audio"], f"{task}: sound")
    if kind == "video" and isinstance(part["video"], dict):
        if len(part["video"]["frames"]) == 0:
            raise DataError(f"{task}: a video without frames")
        if part["video"].get("audio") is not None:
            check_wave(part["video"]["audio"], f"{task}: sound of a video")


def check_wave(wave: np.ndarray, what: str) -> None:
    """Raise DataError when `wave` is empty, not one channel, or not finite."""
    if wave.ndim != 1 or len(wave) == 0:
        raise DataError(f"{what}: expected one channel of samples, got shape {wave.shape}")
    if not np.isfinite(wave).all():
        raise DataError(f"{what}: not finite (NaN or infinity)")


def picture_size(sample: Sample) -> tuple[int, int]:
    """Width and height, in pixels, of the first picture in a sample's last message."""
    return next(part["image"].size for part in sample.messages[-1]["content"] if part["type"] == "image")
