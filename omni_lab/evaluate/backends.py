"""Other people's models behind the suite's one question: a hub model, or a server; ours answers by itself (asking.py).

A backend has one method, `replies(conversations, longest)`: the suite asks whatever has it (see `asking.ask`). Neither
a hub model nor a chat server takes our videos as they are, so a video becomes up to FRAMES of its pictures in order and
its sound; whoever compares figures should say so.
"""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile
import torch
from PIL import Image

from ..checkpoints import one_line
from ..data.sample import HEARING_RATE
from ..data.teacher import Server
from ..errors import CheckpointError, InputError
from ..runtime import hardware

FRAMES = 8  # pictures of a video
Messages = list[dict[str, Any]]  # one conversation, in the form of data.sample


class Backend(Protocol):
    """Whatever answers conversations in text."""

    def replies(self, conversations: Sequence[Messages], longest: int) -> list[str]:
        """One reply of at most `longest` tokens to each conversation."""
        ...


def open_backend(name: str, checkpoint: str | Path | None = None, key: str = "") -> Any:
    """ "ours" (the model in `checkpoint`), "transformers:google/gemma-3-4b-it", or "openai:http://host:8000/v1#model".

    key: of the server, if it wants one. Raises CheckpointError for what cannot be loaded, InputError for a name that is
    none of these.
    """
    kind, _, rest = name.partition(":")
    if kind == "ours" and not rest and checkpoint is not None:
        from ..omni import OmniModel

        return OmniModel.from_pretrained(checkpoint)
    if kind == "transformers" and rest:
        return FromHub(rest)
    url, _, model = rest.partition("#")
    if kind == "openai" and url.startswith(("http://", "https://")):
        if not model:
            raise InputError(f"{name}: name the server's model behind a #, as in openai:http://host:8000/v1#my-model")
        return Served(url, model, key)
    raise InputError(f"unknown backend {name!r}: give ours, transformers:HUB_ID or openai:URL#MODEL")


class FromHub:
    """Any model that transformers' auto classes turn into one with media in and text out, by folder or hub id."""

    def __init__(self, name: str | Path, device: str | torch.device | None = None) -> None:
        import transformers

        here = hardware(device)
        try:
            self.processor: Any = transformers.AutoProcessor.from_pretrained(name)
            self.model = transformers.AutoModelForMultimodalLM.from_pretrained(name, dtype=here.dtype).to(here.device)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise CheckpointError(f"{name}: transformers cannot load it ({one_line(error)})") from None
        self.device = here.device
        self.model.eval()

    @torch.inference_mode()
    def replies(self, conversations: Sequence[Messages], longest: int) -> list[str]:
        """Greedy replies, one conversation at a time: padding differs from model to model."""
        return [self.reply(without_videos(messages), longest) for messages in conversations]

    def reply(self, messages: Messages, longest: int) -> str:
        """The greedy reply to one conversation, of at most `longest` tokens."""
        template = [
            {**m, "content": [{"type": p["type"]} if p["type"] != "text" else p for p in m["content"]]}
            for m in messages
        ]
        prompt = self.processor.apply_chat_template(template, add_generation_prompt=True, tokenize=False)
        prompt = prompt[0] if isinstance(prompt, list) else prompt
        media = {"images": media_of(messages, "image"), "audio": media_of(messages, "audio")}
        given = {kind: values for kind, values in media.items() if values}
        if "audio" in given and not hasattr(self.processor, "feature_extractor"):
            raise InputError(f"{type(self.processor).__name__} takes no sound: choose tasks without it")
        inputs = self.processor(text=[prompt], return_tensors="pt", **given).to(self.device)
        inputs = {k: v.to(self.model.dtype) if v.is_floating_point() else v for k, v in inputs.items()}
        writer, ends = self.model, {}
        if hasattr(writer, "thinker"):  # an omni model: its text is all that is wanted
            writer, ends = writer.thinker, {"eos_token_id": self.processor.tokenizer.eos_token_id}
        ids = writer.generate(**inputs, max_new_tokens=longest, do_sample=False, **ends)
        new = ids[0, inputs["input_ids"].shape[1] :]
        return self.processor.batch_decode([new], skip_special_tokens=True)[0].strip()


class Served:
    """A model behind an OpenAI-compatible server: `url` ends in /v1. Pictures travel as PNG, sound as WAV."""

    def __init__(self, url: str, model: str, key: str = "", timeout: float = 120.0) -> None:
        self.server = Server(url, model, key, timeout)

    def replies(self, conversations: Sequence[Messages], longest: int) -> list[str]:
        """The server's replies at temperature 0. Raises DataError with what went wrong."""
        return [self.server.complete(as_served(m), 0, 0.0, longest).strip() for m in conversations]


def as_served(messages: Messages) -> list[dict[str, Any]]:
    """A conversation in the form of the protocol, its media inline as base64."""
    out = []
    for message in without_videos(messages):
        parts = []
        for part in message["content"]:
            if part["type"] == "text":
                parts.append(part)
            elif part["type"] == "image":
                address = f"data:image/png;base64,{encoded_picture(part['image'])}"
                parts.append({"type": "image_url", "image_url": {"url": address}})
            else:
                sound = {"data": encoded_sound(part["audio"]), "format": "wav"}
                parts.append({"type": "input_audio", "input_audio": sound})
        only_text = len(parts) == 1 and parts[0]["type"] == "text"
        out.append({"role": message["role"], "content": parts[0]["text"] if only_text else parts})
    return out


def encoded_picture(picture: Image.Image) -> str:
    """A picture as PNG in base64."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def encoded_sound(wave: np.ndarray) -> str:
    """A wave (samples,) at HEARING_RATE as 16-bit WAV in base64."""
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, HEARING_RATE, format="WAV", subtype="PCM_16")
    return base64.b64encode(buffer.getvalue()).decode()


def without_videos(messages: Messages) -> Messages:
    """The conversation with every content a list of parts, and each video as pictures and sound."""
    out = []
    for message in messages:
        content = message["content"]
        parts: list[dict[str, Any]] = [{"type": "text", "text": content}] if isinstance(content, str) else content
        changed: list[dict[str, Any]] = []
        for part in parts:
            changed += video_parts(part["video"]) if part["type"] == "video" else [part]
        out.append({"role": message["role"], "content": changed})
    return out


def video_parts(video: dict[str, Any]) -> list[dict[str, Any]]:
    """Up to FRAMES pictures spread evenly over a video, then its sound if it has one."""
    frames = video["frames"]
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).round().astype(int))
    parts: list[dict[str, Any]] = [{"type": "image", "image": Image.fromarray(frames[i])} for i in chosen]
    if video.get("audio") is not None:
        parts.append({"type": "audio", "audio": video["audio"]})
    return parts


def media_of(messages: Messages, kind: str) -> list[Any]:
    """All media of one kind, in the order in which they appear."""
    return [part[kind] for message in messages for part in message["content"] if part["type"] == kind]
