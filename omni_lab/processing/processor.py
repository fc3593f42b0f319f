"""OmniProcessor: messages, text and media -> the tensors that the thinker takes.

It joins the reference's own tokenizer and WhisperFeatureExtractor with the pixels of image.py and gives, key for key,
what the reference's Qwen2_5OmniProcessor gives. Where that one differs on purpose, the docstring says so.
"""

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import checkpoints
from ..errors import CheckpointError, InputError
from . import audio as sound
from . import chat, image, video
from .interleave import audio_in_video

IDS_PER_SECOND = 25  # TMRoPE: one temporal id per 40 ms
SECONDS_PER_CHUNK = 2  # sound and pictures of a video alternate every 2 s
VIDEO_DEFAULTS = image.PixelConfig(min_pixels=128 * 28 * 28, max_pixels=768 * 28 * 28)  # the reference's, for videos
FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "added_tokens.json", "chat_template.json",
    "special_tokens_map.json", "chat_template.jinja", "preprocessor_config.json", "processor_config.json",
)  # fmt: skip
PLACEHOLDER = re.compile(r"<\|(?:IMAGE|AUDIO|VIDEO)\|>")


class OmniProcessor:
    """Everything between files and the thinker. Make one with `OmniProcessor.from_pretrained(folder)`."""

    def __init__(
        self,
        tokenizer: Any,
        feature_extractor: Any,
        image_config: image.PixelConfig,
        video_config: image.PixelConfig,
        allow_urls: bool = False,
    ):
        """allow_urls: whether media may be fetched from http(s) addresses (of untrusted messages, better not)."""
        self.tokenizer, self.feature_extractor = tokenizer, feature_extractor
        self.image_config, self.video_config = image_config, video_config
        self.allow_urls = allow_urls
        self.end_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
        self.answer_header = tokenizer.encode("<|im_start|>assistant\n", add_special_tokens=False)
        self.folder: Path | None = None

    @classmethod
    def from_pretrained(cls, folder: str | Path, allow_urls: bool = False) -> "OmniProcessor":
        """Load from a folder or hub id in the reference's layout. Raises CheckpointError naming what is missing."""
        from transformers import AutoTokenizer, PreTrainedConfig, WhisperFeatureExtractor

        folder = checkpoints.resolve(folder)
        if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
            raise CheckpointError(f"{folder}: no tokenizer (tokenizer.json, or vocab.json with merges.txt)")
        settings = checkpoints.read_json(folder / "preprocessor_config.json", missing={})
        joint = checkpoints.read_json(folder / "processor_config.json", missing={})
        pictures = joint.get("image_processor", settings)
        extractor = joint.get("feature_extractor", settings)
        if not (isinstance(pictures, Mapping) and isinstance(extractor, Mapping) and extractor and pictures):
            raise CheckpointError(f"{folder}: no processor (preprocessor_config.json or processor_config.json)")
        try:
            # A blank configuration: else the model's is read, and ids that its parts leave at their defaults warned of.
            tokenizer = AutoTokenizer.from_pretrained(str(folder), config=PreTrainedConfig(), local_files_only=True)
            features = WhisperFeatureExtractor.from_dict(dict(extractor))
        except Exception as error:  # noqa: BLE001 - whatever the library says of a broken file
            raise CheckpointError(
                f"{folder}: the tokenizer cannot be read ({error})".replace("\n", " ")[:300]
            ) from None
        template = read_template(folder)
        if template is not None:
            tokenizer.chat_template = template
        processor = cls(
            tokenizer,
            features,
            image.PixelConfig.from_dict(pictures),
            image.PixelConfig.from_dict(joint.get("videos_kwargs", {}), VIDEO_DEFAULTS),
            allow_urls,
        )
        processor.folder = folder
        return processor

    def save_pretrained(self, folder: str | Path) -> None:
        """Have `folder` hold the files that this processor was made from, each replaced atomically, and no others of
        their names. Raises CheckpointError."""
        if self.folder is None:
            raise CheckpointError("this processor was not loaded from a folder, so there are no files to save")
        if not any((self.folder / name).is_file() for name in FILES):
            raise CheckpointError(f"{self.folder}: the files that this processor was made from are gone")
        for name in FILES:
            source, target = self.folder / name, Path(folder) / name
            if source.is_file() and not (target.exists() and target.samefile(source)):
                with checkpoints.replacing(target) as temporary:
                    shutil.copyfile(source, temporary)
        if not Path(folder).samefile(self.folder):
            remove_files(Path(folder), [name for name in FILES if not (self.folder / name).is_file()])

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        images: Sequence[Any] | None = None,
        audio: Sequence[Any] | None = None,
        videos: Sequence[Any] | None = None,
        *,
        messages: Any = None,
        use_audio_in_video: bool = False,
        labels: bool = False,
        fps: float | None = None,
        longest_audio: bool = False,
    ) -> Any:
        """Tensors for the thinker, under the reference's names, as a `transformers.BatchFeature` (a dict with `.to`).

        Give either `messages` (one conversation or a list of them: media inside) or `text` (a prompt or a list of
        prompts with <|IMAGE|>, <|AUDIO|>, <|VIDEO|> where the media stand) with the media of all prompts in order.
        Media: see image.load_image, audio.load_audio, video.load_video. use_audio_in_video: a video's sound track is
        heard too, interleaved by 2 s. labels: adds "labels" (the assistant's words) and no open assistant turn.
        fps: frames a second sampled from videos (default 2). longest_audio: pad sound to the longest clip only; else to
        the extractor's whole window, as the reference does. Several prompts are padded on the left.

        Returns input_ids, attention_mask (batch, length); pixel_values (patches, 1176), image_grid_thw (images, 3);
        the same for videos, with video_second_per_grid (videos,) in seconds; input_features (clips, 128, frames),
        feature_attention_mask (clips, frames); labels (batch, length); each where there is something to put in.
        Raises InputError or MediaError in one line."""
        if messages is not None:
            if text is not None or images or audio or videos:
                raise InputError("give either messages, with the media in them, or text and media, not both")
            prompts, images, audio, videos = self.read(messages, not labels)
        elif text is None:
            raise InputError("nothing to process: give text or messages")
        else:
            prompts = as_list([text] if isinstance(text, str) else text, "text")
        pictures = self.pictures(as_list(images, "images"))
        clips = [self.hear(clip) for clip in as_list(audio, "audio")]
        films = self.films(as_list(videos, "videos"), use_audio_in_video, fps)
        prompts, waves = self.expand(prompts, pictures, clips, films)
        batch = self.tokens(prompts)
        if pictures:
            batch["pixel_values"] = torch.cat([patches for patches, _ in pictures])
            batch["image_grid_thw"] = torch.tensor([grid for _, grid in pictures])
        if films:
            batch["pixel_values_videos"] = torch.cat([film["patches"] for film in films])
            batch["video_grid_thw"] = torch.tensor([film["grid"] for film in films])
            batch["video_second_per_grid"] = torch.tensor([film["second_per_grid"] for film in films])
        if waves:
            width = None if longest_audio else self.feature_extractor.nb_max_frames
            features = sound.log_mel(waves, self.feature_extractor, width)
            batch["input_features"], batch["feature_attention_mask"] = features
        if any(film["audio"] is not None for film in films):
            batch["use_audio_in_video"] = True
        if labels:
            ids, mask = batch["input_ids"], batch["attention_mask"]
            batch["labels"] = chat.answer_labels(ids, mask, self.answer_header, self.end_id)
        return batch

    @property
    def rate(self) -> int:
        """Hz of the sound that the audio encoder hears."""
        return self.feature_extractor.sampling_rate

    @property
    def stop_ids(self) -> list[int]:
        """Tokens that end an answer."""
        return sorted({self.end_id, self.tokenizer.convert_tokens_to_ids("<|endoftext|>")})

    def read(self, messages: Any, open_turn: bool) -> tuple[list[str], list[Any], list[Any], list[Any]]:
        """One conversation or several -> prompts, and the images, sounds and videos in them, in order."""
        nested = isinstance(messages, Sequence) and messages and isinstance(messages[0], (list, tuple))
        conversations = [chat.read_messages(conversation) for conversation in (messages if nested else [messages])]
        prompts = [self.prompt(conversation.messages, open_turn) for conversation in conversations]
        images, clips, videos = (
            [medium for conversation in conversations for medium in getattr(conversation, kind)]
            for kind in ("images", "audio", "videos")
        )
        return prompts, images, clips, videos

    def prompt(self, messages: list[dict[str, Any]], open_turn: bool = True) -> str:
        """Messages as ChatML; open_turn: ending where the assistant begins to speak. Raises InputError."""
        if not self.tokenizer.chat_template:
            raise InputError("this checkpoint has no chat template: give text instead of messages")
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=open_turn)
        except Exception as error:  # noqa: BLE001 - a template is a program and may raise anything
            raise InputError(f"the chat template refuses these messages ({error})".replace("\n", " ")[:300]) from None

    def decode(self, ids: Tensor | Sequence[int]) -> str:
        """Token ids -> text, special tokens left out."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def pictures(self, sources: list[Any]) -> list[tuple[Tensor, tuple[int, int, int]]]:
        """Each picture as patches and grid."""
        loaded = (image.load_image(source, self.allow_urls) for source in sources)
        return [image.pixel_values(pixels[None], self.image_config) for pixels in loaded]

    def hear(self, source: Any) -> Any:
        """A sound as one channel at `rate` Hz: (samples,). Raises InputError, MediaError, also where it is too long."""
        most = self.feature_extractor.n_samples / self.rate
        return sound.load_audio(source, self.rate, self.allow_urls, most)

    def films(self, sources: list[Any], with_sound: bool, fps: float | None) -> list[dict[str, Any]]:
        """Each video as patches, grid, seconds per step of the grid, and its sound where it is wanted."""
        films, most = [], self.feature_extractor.n_samples / self.rate
        for source in sources:
            rate = self.rate if with_sound else None
            film = video.load_video(source, self.video_config, rate, fps, self.allow_urls, most)
            patches, grid = image.patchify(image.normalize(film.frames, self.video_config), self.video_config)
            heard = with_sound and film.audio is not None and self.token_count(film.audio) > 0
            step = self.video_config.temporal_patch_size / film.fps
            films.append(
                {"patches": patches, "grid": grid, "second_per_grid": step, "audio": film.audio if heard else None}
            )
        return films

    def token_count(self, wave: Any) -> int:
        """Tokens that the audio encoder makes of a wave (samples,) at 16 kHz."""
        return sound.audio_token_count(-(-len(wave) // self.feature_extractor.hop_length))

    def expand(self, prompts: list[str], pictures: list, clips: list, films: list) -> tuple[list[str], list[Any]]:
        """Write each placeholder as often as its medium has tokens. Returns the prompts and all sounds in their order.

        Raises InputError when placeholders and media do not pair up."""
        given = {"<|IMAGE|>": list(pictures), "<|AUDIO|>": list(clips), "<|VIDEO|>": list(films)}
        found = [token for prompt in prompts for token in PLACEHOLDER.findall(check_prompt(prompt))]
        for token, media in given.items():
            if found.count(token) != len(media):
                raise InputError(f"the text holds {found.count(token)} {token} for {len(media)} given")
        waves: list[Any] = []

        def written(match: re.Match) -> str:
            token, medium = match[0], given[match[0]].pop(0)
            if token == "<|IMAGE|>":
                return token * self.place_count(medium[1], self.image_config)
            if token == "<|AUDIO|>":
                waves.append(medium)
                return token * sound.audio_token_count(sound.check_clip(medium, self.feature_extractor))
            if medium["audio"] is None:
                return token * self.place_count(medium["grid"], self.video_config)
            waves.append(medium["audio"])
            sound.check_clip(medium["audio"], self.feature_extractor)
            return self.write_film(medium)

        return [PLACEHOLDER.sub(written, prompt) for prompt in prompts], waves

    def place_count(self, grid: tuple[int, int, int], config: image.PixelConfig) -> int:
        """Tokens of a grid of patches."""
        return grid[0] * grid[1] * grid[2] // config.merge_size**2

    def write_film(self, film: dict[str, Any]) -> str:
        """The placeholders of a video with its sound: <|audio_bos|>, 2 s of video, 2 s of sound, ..., <|audio_eos|>."""
        tokens = {"video": "<|VIDEO|>", "audio": "<|AUDIO|>"}
        runs = audio_in_video(
            film["grid"], self.video_config.merge_size, film["second_per_grid"], self.token_count(film["audio"]),
            IDS_PER_SECOND, SECONDS_PER_CHUNK,
        )  # fmt: skip
        return "<|audio_bos|>" + "".join(tokens[kind] * count for kind, count in runs) + "<|audio_eos|>"

    def tokens(self, prompts: list[str]) -> Any:
        """Prompts -> input_ids and attention_mask (batch, length), padded on the left."""
        from transformers import BatchFeature

        rows = self.tokenizer(prompts, add_special_tokens=True)["input_ids"] if prompts else []
        length = max(map(len, rows), default=0)
        if not length:
            raise InputError("the text is empty: there is nothing to answer")
        pad = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([[pad] * (length - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
        return BatchFeature({"input_ids": ids, "attention_mask": mask})


def remove_files(folder: Path, names: Sequence[str] = FILES) -> None:
    """Take away the files of a processor that was saved here before: beside another's they would be read as its own.

    Raises CheckpointError when the disk refuses."""
    for name in names:
        try:
            (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise CheckpointError(f"{folder / name}: cannot be removed ({checkpoints.one_line(error)})") from None


def as_list(media: Any, name: str) -> list[Any]:
    """Media as a list; a list per prompt is flattened. Raises InputError for what is no list."""
    if media is None:
        return []
    if not isinstance(media, (list, tuple)):
        raise InputError(f"{name} must be a list, got {type(media).__name__}")
    return list(media)


def check_prompt(prompt: Any) -> str:
    """`prompt`, which must be text. Raises InputError."""
    if not isinstance(prompt, str):
        raise InputError(f"text must be a string or a list of strings, got {type(prompt).__name__}")
    return prompt


def read_template(folder: Path) -> str | None:
    """The chat template that stands in a file of its own, if there is one; else the tokenizer's is used."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    raw = checkpoints.read_json(folder / "chat_template.json", missing={})
    return raw.get("chat_template") if isinstance(raw, Mapping) else None
