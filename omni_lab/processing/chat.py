"""Chat messages: the ecosystem's form, the ChatML prompt, and which tokens are the assistant's answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError

MEDIA = ("image", "audio", "video")
IGNORED = -100  # label of a token that no loss is taken of

# ChatML, with the tokens that the released processor writes for each medium. One that does not begin with the system's
# message gets the usual short one.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
    "<|im_start|>{{ message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image' in part or 'image_url' in part %}<|vision_bos|><|IMAGE|><|vision_eos|>"
    "{% elif part['type'] == 'audio' or 'audio' in part or 'audio_url' in part %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% elif part['type'] == 'video' or 'video' in part %}<|vision_bos|><|VIDEO|><|vision_eos|>"
    "{% elif 'text' in part %}{{ part['text'] }}"
    "{% endif %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass
class Conversation:
    """One conversation in plain form, with its media in the order in which they appear."""

    messages: list[
        dict[str, Any]
    ]  # {"role": ..., "content": [{"type": "text", "text": ...} | {"type": "image"} | ...]}
    images: list[Any] = field(default_factory=list)
    audio: list[Any] = field(default_factory=list)
    videos: list[Any] = field(default_factory=list)


def read_messages(messages: Any) -> Conversation:
    """Check one conversation and part its media from its text. Raises InputError naming the message that is wrong."""
    if not isinstance(messages, Sequence) or isinstance(messages, (str, bytes)) or not messages:
        raise InputError("messages must be a list of {'role': ..., 'content': ...}, with at least one of them")
    conversation = Conversation([])
    media = {"image": conversation.images, "audio": conversation.audio, "video": conversation.videos}
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise InputError(f"{where} must be a table with a 'role' and a 'content'")
        content = message.get("content")
        content = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(content, Sequence) or isinstance(content, (bytes, bytearray)):
            raise InputError(f"{where}: content must be text or a list of parts, got {type(content).__name__}")
        parts: list[dict[str, str]] = []
        for part in content:
            kind, value = read_part(part, where)
            parts.append({"type": "text", "text": value} if kind == "text" else {"type": kind})
            if kind != "text":
                media[kind].append(value)
        conversation.messages.append({"role": message["role"], "content": parts})
    return conversation


def read_part(part: Any, where: str) -> tuple[str, Any]:
    """One part of a message: its kind ("text", "image", "audio", "video") and its value. Raises InputError."""
    part = {"type": "text", "text": part} if isinstance(part, str) else part
    if not isinstance(part, Mapping):
        raise InputError(f"{where}: a part must be a table with a 'type', got {type(part).__name__}")
    kind = part.get("type") or next((kind for kind in ("text", *MEDIA) if kind in part), None)
    if kind not in ("text", *MEDIA):
        raise InputError(f"{where}: a part of type {kind!r}; expected text, image, audio or video")
    value = next((part[key] for key in (kind, "url", "path", "base64") if part.get(key) is not None), None)
    if value is None or (kind == "text" and not isinstance(value, str)):
        raise InputError(f"{where}: a part of type {kind} needs its content under {kind!r}")
    return kind, value


def user_message(
    text: str | None, images: Sequence[Any], audio: Sequence[Any], videos: Sequence[Any]
) -> dict[str, Any]:
    """One user's message with the media before the text. Raises InputError when there is nothing in it."""
    given = (("image", images), ("audio", audio), ("video", videos))
    parts = [{"type": kind, kind: value} for kind, values in given for value in values]
    if text is not None:
        parts.append({"type": "text", "text": text})
    if not parts:
        raise InputError("nothing to answer: give text, images, audio, videos or messages")
    return {"role": "user", "content": parts}


def answer_labels(input_ids: Tensor, attention_mask: Tensor, header: Sequence[int], end: int) -> Tensor:
    """Labels under which only the assistant's words count (LLaVA, section 4.2: loss on the answer alone).

    input_ids, attention_mask: (batch, length); header: the tokens of "<|im_start|>assistant\\n"; end: <|im_end|>.
    Returns (batch, length): the token itself from behind each header up to and with the next `end`, else -100."""
    labels = torch.full_like(input_ids, IGNORED)
    for row, (ids, kept) in enumerate(zip(input_ids.tolist(), attention_mask.tolist(), strict=True)):
        i = 0
        while i < len(ids):
            if ids[i] != header[0] or ids[i : i + len(header)] != list(header) or not kept[i]:
                i += 1
                continue
            start = i = i + len(header)
            while i < len(ids) and ids[i] != end:
                i += 1
            i = min(i + 1, len(ids))
            labels[row, start:i] = input_ids[row, start:i]
    return labels
