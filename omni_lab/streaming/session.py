"""A conversation in real time: what is said is taken in while it is said, what is answered can be interrupted.

    session = Session(model)
    session.push(audio=packet, frame=picture)      # again and again, as they arrive
    for event in session.reply(): ...              # TextDelta, AudioChunk
    session.push(audio=...)                        # while a reply is running: it stops (barge-in)

Limits: the conversation holds `max_tokens` tokens. When a turn begins with less than a quarter of them free, all
earlier turns but the system's message are forgotten; a turn that does not fit is refused and taken back.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .. import tmrope
from ..codec.speaker import Speaker
from ..encoders.audio import token_count
from ..errors import InputError
from ..processing import audio as sounds
from ..processing.chat import CHAT_TEMPLATE
from ..processing.interleave import audio_in_video
from . import hearing
from .account import Account
from .memory import Memory
from .reply import ReplyStream

SYSTEM = CHAT_TEMPLATE.split("<|im_start|>system\n")[1].split("<|im_end|>")[0]  # the usual short one


class Session:
    """One conversation. Its methods may be called from several threads; `push` during a reply interrupts it."""

    def __init__(
        self,
        model: Any,
        speaker: str | Speaker | None = None,
        speak: bool = True,
        system: str = SYSTEM,
        max_tokens: int | None = None,
        **how: Any,
    ) -> None:
        """speaker, speak: as in `generate`; max_tokens: default what the model has positions for; how: of ReplyStream.

        Raises InputError for a model without tokenizer, a system message that does not fit, or an unknown setting."""
        if model.processor is None:
            raise InputError("a conversation needs a checkpoint with tokenizer and processor files")
        text = model.config.thinker_config.text_config
        self.model, self.processor = model, model.processor
        self.voice = model.voice(speaker) if speak else None
        self.how = how
        self.memory = Memory(model, min(max_tokens or text.max_position_embeddings, text.max_position_embeddings))
        self.lock = threading.RLock()
        self.messages: list[dict[str, str]] = []  # what was said, media as their names in brackets
        self.running: ReplyStream | None = None
        self.unfed: list[int] = []  # ids that the next piece begins with
        self.text = ""  # typed, not yet taken in: tokens may reach over the pieces
        self.heard: list[str] = []  # of the open turn, for `messages`
        self.sound: hearing.MelFrames | None = None
        self.film: hearing.FilmFrames | None = None
        self.film_start = self.film_pairs = self.film_sound = 0  # position of its beginning; what was taken in
        self.twin = False  # whether the next text's first token shares the position of the second: after a film
        with torch.no_grad():
            self.take_text(f"<|im_start|>system\n{system}<|im_end|>\n")
        self.beginning = self.turn = self.memory.place
        self.turn_unfed: list[int] = []
        self.open = False
        settings = dict(how)
        self.stream(settings, settings.pop("voice", self.voice), Account())  # says what is wrong with them

    def push(
        self,
        text: str | None = None,
        audio: Any = None,
        frame: Any = None,
        image: Any = None,
        rate: int | None = None,
        time: float | None = None,
        video: Any = None,
    ) -> None:
        """More of the user's turn: text, a picture, a whole video, the next packet of sound, the next frame of a film.

        audio: (samples,) at `rate` Hz (default 16 kHz). frame: a picture of the film that is running, shown from `time`
        seconds of the film on (default: as much as its sound has lasted, or half a second after the frame before).
        A running reply is interrupted. Raises InputError or MediaError in one line; the turn is then as before, or,
        where it had partly been taken in, begun anew."""
        with self.alone(), torch.no_grad():
            self.begin_turn()
            try:
                if text is not None or image is not None or video is not None:
                    self.end_media()
                if image is not None:
                    self.take_picture(image)
                if video is not None:
                    self.take_video(video)
                if frame is not None:
                    self.take_frame(frame, time)
                if audio is not None:
                    self.take_sound(audio, rate)
                if text is not None:
                    if not isinstance(text, str):
                        raise InputError(f"text must be a string, got {type(text).__name__}")
                    self.text += text
                    self.heard.append(text)
            except Exception:
                self.drop_turn()
                raise

    def reply(self, account: Account | None = None, **how: Any) -> ReplyStream:
        """The question is over: the answer, as it comes. how: of ReplyStream, for this reply.

        Raises InputError when nothing has been asked, or for a wrong setting; the turn then stays as it is."""
        account = account or Account()
        with self.alone(), torch.no_grad():
            if not self.open:
                raise InputError("nothing to answer: push text, sound or pictures first")
            settings = {**self.how, **how}
            voice = settings.pop("voice", self.voice)
            self.stream(settings, voice, account)  # what is wrong with the settings must be said before the turn ends
            try:
                with account.span("prefill"):
                    self.end_media()
                    if not self.heard:
                        raise InputError("nothing to answer: the sound is too short to be heard")
                    self.take_text("<|im_end|>\n<|im_start|>assistant\n")
            except Exception:
                self.drop_turn()
                raise
            self.messages.append({"role": "user", "content": " ".join(self.heard)})
            self.open, self.heard = False, []
            room = self.memory.limit - self.memory.place.length
            settings["max_new_tokens"] = max(1, min(settings.get("max_new_tokens", 512), room))
            settings.setdefault("seen", self.memory.seen.clone())
            self.running = self.stream(settings, voice, account)
            return self.running

    def stream(self, settings: dict[str, Any], voice: Speaker | None, account: Account) -> ReplyStream:
        """A reply behind what has been taken in. Raises InputError for settings that a reply has not."""
        talk: Callable[[Any], Any] | None = None if voice is None else lambda _: self.memory.talk(voice)
        output = self.memory.output
        return ReplyStream(self.model, lambda _: output, voice, talk, account=account, ended=self.replied, **settings)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside this block no reply runs, and no other thread takes anything in; a running one is interrupted."""
        while True:
            self.interrupt()
            with self.lock:
                if self.running is None:  # another thread may have asked for one while we waited for the lock
                    yield
                    return

    def interrupt(self) -> None:
        """Stop a running reply; what has been said of it stays said. From any thread."""
        running = self.running  # not under our lock: the reader holds the reply's, and asks for ours when it ends
        if running is not None:
            running.stop()
            running.close()

    def close(self) -> None:
        """Stop, and free the memory of the conversation."""
        with self.alone():
            self.memory = Memory(self.model, self.memory.limit)
            self.open, self.sound, self.film = False, None, None

    @torch.no_grad()
    def replied(self, reply: ReplyStream) -> None:
        """Called when a reply is over: the conversation goes on behind what was said of it."""
        with self.lock:
            if self.running is not reply:
                return
            self.running = None
            left = self.memory.replied(reply.said)
            stops = set(self.processor.stop_ids)
            self.unfed = [token for token in left if token not in stops]
            self.text = "<|im_end|>\n"
            self.messages.append({"role": "assistant", "content": reply.text})

    def begin_turn(self) -> None:
        """Open the user's turn, if it is not."""
        if self.open:
            return
        if self.memory.limit - self.memory.place.length < self.memory.limit // 4:
            self.memory.back_to(self.beginning)
            self.unfed, self.text = [], ""
        self.turn, self.turn_unfed, self.turn_text = self.memory.place, list(self.unfed), self.text
        self.text += "<|im_start|>user\n"
        self.open = True

    def drop_turn(self) -> None:
        """Take back the open turn."""
        self.memory.back_to(self.turn)
        self.unfed, self.text = list(self.turn_unfed), self.turn_text
        self.sound, self.film, self.film_sound, self.twin = None, None, 0, False
        self.open, self.heard = False, []

    def take_text(self, text: str = "", twins: bool = False) -> None:
        """Feed the text typed so far and `text` behind it; twins: its last two tokens share a position."""
        ids = self.unfed + self.processor.tokenizer.encode(self.text + text, add_special_tokens=False)
        self.unfed, self.text = [], ""
        positions = tmrope.text_ids(self.memory.place.start, len(ids))
        if self.twin and len(ids) > 1:
            positions = torch.cat((positions[:, :1], positions[:, :-1]), dim=1)
        if twins:
            positions = torch.cat((positions[:, :-1], positions[:, -2:-1]), dim=1)
        self.twin = False
        tokens = torch.tensor(ids, device=self.model.device)
        self.memory.feed(tokens, self.model.thinker.model.embed_tokens(tokens), positions)

    def take_media(self, token: int, features: Tensor, positions: Tensor) -> None:
        """Feed features (n, hidden_size) in the places of n times `token`."""
        ids = torch.full((len(features),), token, device=self.model.device)
        self.memory.feed(ids, features, positions)

    def take_picture(self, picture: Any) -> None:
        """A still picture: all of it at once."""
        config = self.model.config.thinker_config
        patches, grid = self.processor.pictures([picture])[0]
        self.memory.check(len(patches) // 4)
        self.take_text("<|vision_bos|>")
        merge = config.vision_config.spatial_merge_size
        positions = tmrope.image_ids(self.memory.place.start, grid[0], grid[1] // merge, grid[2] // merge)
        self.take_media(config.image_token_index, self.seen(patches, grid), positions)
        self.text = "<|vision_eos|>"
        self.heard.append("[picture]")

    def take_video(self, source: Any) -> None:
        """A whole video with its sound, as the processor takes it: video and sound alternate every 2 s."""
        config = self.model.config.thinker_config
        film = self.processor.films([source], True, None)[0]
        grid, wave, seconds = film["grid"], film["audio"], film["second_per_grid"]
        kinds = [("video", self.processor.place_count(grid, self.processor.video_config))]
        features = {"video": self.seen(film["patches"], grid)}
        lengths = None
        if wave is not None:
            mel, mask = sounds.log_mel([wave], self.processor.feature_extractor, None)
            lengths = mask.sum(-1)
            weight = self.model.thinker.lm_head.weight
            features["audio"] = self.model.thinker.audio_features(mel.to(weight), mask.to(weight.device))
            merge, rate = config.vision_config.spatial_merge_size, config.position_id_per_seconds
            count = self.processor.token_count(wave)
            kinds = audio_in_video(grid, merge, seconds, count, rate, config.seconds_per_chunk)
        self.memory.check(sum(count for _, count in kinds))
        self.take_text("<|vision_bos|>" + ("<|audio_bos|>" if wave is not None else ""), twins=wave is not None)
        media = tmrope.media_of(None, torch.tensor([grid]), lengths, [seconds])
        positions = tmrope.media_ids("videos", self.memory.place.start, media, wave is not None, config)
        tokens = {"video": config.video_token_index, "audio": config.audio_token_index}
        ids = torch.cat([torch.full((count,), tokens[kind]) for kind, count in kinds])
        embeds = features["video"].new_empty(len(ids), features["video"].shape[1])
        for kind, values in features.items():
            embeds[(ids == tokens[kind]).to(embeds.device)] = values
        self.memory.feed(ids, embeds, torch.cat(positions, dim=1))
        self.text = ("<|audio_eos|>" if wave is not None else "") + "<|vision_eos|>"
        self.twin = wave is not None
        self.heard.append("[video]")

    def seen(self, patches: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Patches -> features (tokens, hidden_size)."""
        weight = self.model.thinker.lm_head.weight
        return self.model.thinker.vision_features(patches.to(weight), torch.tensor([grid], device=weight.device))

    def take_sound(self, audio: Any, rate: int | None) -> None:
        """The next packet; each block of 2 s goes to the thinker as soon as it is complete."""
        if self.sound is None:
            made = hearing.MelFrames(self.processor.feature_extractor)
            made.add(audio, rate)
            self.sound = made
            if self.film is None:
                self.take_text("<|audio_bos|>")
                self.heard.append("[sound]")
        else:
            self.sound.add(audio, rate)
        self.memory.check(token_count(max(3, self.sound.left())))
        while self.sound.ready(hearing.BLOCK_FRAMES):
            if self.film is not None:
                self.take_pairs(self.film, round(2 / self.film.second_per_grid))
            self.take_mel(self.sound, hearing.BLOCK_FRAMES)

    def take_mel(self, sound: hearing.MelFrames, frames: int) -> None:
        """Feed the next mel frames of the running sound, if they make a token."""
        config = self.model.config.thinker_config
        if token_count(frames) < 1:
            return
        mel = sound.take(frames).to(self.model.thinker.lm_head.weight)
        features = self.model.thinker.audio_features(mel[None], lengths=[frames])
        start = self.memory.place.start if self.film is None else self.film_start + self.film_sound
        self.film_sound += len(features)
        self.take_media(config.audio_token_index, features, tmrope.audio_ids(start, len(features)))

    def take_frame(self, frame: Any, time: float | None) -> None:
        """A frame of the running film; opens one."""
        if self.film is None:
            if self.sound is not None:
                self.end_media()
            film = hearing.FilmFrames(self.processor.video_config)
            film.add(frame, 0.0)
            # With sound or without: two tokens stand before it in both cases, as sound may still follow.
            self.take_text("<|vision_bos|><|audio_bos|>", twins=True)
            self.film = film
            self.film_start, self.film_pairs, self.film_sound = self.memory.place.start, 0, 0
            self.heard.append("[film]")
            return
        if time is None:
            heard = self.sound.total / self.sound.rate if self.sound is not None else 0.0
            time = heard if self.sound is not None else self.film.shown[-1][0] + 1 / self.film.fps
        self.film.add(frame, time)
        if self.sound is None and time >= (self.film_pairs + 2) * self.film.second_per_grid:
            self.take_pairs(self.film, 1)

    def take_pairs(self, film: hearing.FilmFrames, pairs: int) -> None:
        """Feed the next pairs of frames of the running film."""
        config = self.model.config.thinker_config
        patches, grid = film.take(pairs)
        merge = config.vision_config.spatial_merge_size
        height, width = grid[1] // merge, grid[2] // merge
        self.memory.check(pairs * height * width)
        times = torch.arange(self.film_pairs, self.film_pairs + pairs)
        times = (times * torch.tensor(film.second_per_grid) * config.position_id_per_seconds).long()
        positions = tmrope.grid_ids(self.film_start, times, height, width)
        self.film_pairs += pairs
        self.take_media(config.video_token_index, self.seen(patches, grid), positions)

    def end_media(self) -> None:
        """End the running sound or film: what is left of it, and the tokens that close it."""
        if self.sound is None and self.film is None:
            return
        if self.sound is not None:
            self.sound.finish()
        left = self.sound.left() if self.sound is not None else 0
        if self.film is not None:
            if self.sound is not None:
                pairs = int(left / 100 / self.film.second_per_grid)
            else:
                pairs = -(-int(self.film.shown[-1][0] * self.film.fps + 1) // 2) - self.film_pairs
            if pairs > 0 or not self.film_pairs:
                self.take_pairs(self.film, max(1, pairs))
        elif token_count(left) < 1 and not self.film_sound:
            raise InputError("the sound is too short: 30 ms at least are needed")
        if self.sound is not None:
            self.take_mel(self.sound, left)
        self.twin = self.film is not None
        self.text = "<|audio_eos|>" + ("<|vision_eos|>" if self.film is not None else "")
        self.sound, self.film, self.film_sound = None, None, 0
