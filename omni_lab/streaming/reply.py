"""A reply as it comes into being: the thinker writes, the talker speaks each word as it is written, sound follows.

One thread and no queue: whoever asks for the next event makes the next event. A reply that nobody reads costs nothing,
and one that is closed is gone.
"""

import itertools
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from .. import arguments, cpu_kernels, talker
from .. import sampling as samplers
from ..codec.dit import DiT
from ..codec.speaker import Speaker
from ..processing.thoughts import Spoken
from ..sampling import GREEDY, Sampling
from ..talker import Prefilled
from ..thinker import Token
from .account import Account
from .events import AudioChunk, TextDelta
from .mel import MelStream
from .speech import FADE, FIRST, MARGIN, Speech, WaveStream
from .writing import TextStream

Event = TextDelta | AudioChunk
# Tokens that the thinker writes at a time, behind the first. From token to token weights stay in the processor's cache;
# were thinker and talker to take turns, each would drive out the other's. With the first they make a block's codes;
# then fewer at a time, because what was given out first will soon have been heard.
BURST, LATER_BURST = 11, 6
TOKEN2WAV = ("num_steps", "guidance_scale", "sway_coefficient", "solver", "ahead", "first_ahead", "noise")


class ReplyStream:
    """Iterate over it: TextDelta and AudioChunk. `text`, `ids`, `codes` and `account` grow meanwhile.

    `stop()` may be called from any thread: no event comes after the one that is being made. `close()`, or leaving a
    `with` block, frees everything at once.
    """

    def __init__(
        self,
        model: Any,
        start: Callable[[Account], Any],
        voice: Speaker | None,
        talk: Callable[[Any], Prefilled] | None,
        seen: Tensor | None = None,
        seed: int | None = 0,
        max_new_tokens: int = 512,
        sampling: Sampling = GREEDY,
        stop_token_ids: Any = None,
        max_codes: int = 3000,
        talker_sampling: Sampling | None = None,
        account: Account | None = None,
        ended: Callable[["ReplyStream"], None] | None = None,
        most_blocks: int = 8,
        margin: int = MARGIN,
        fade: float = FADE,
        **token2wav: Any,
    ) -> None:
        """start: prefills and gives the thinker's output; talk: prefills the talker behind it; voice: None for text
        alone. ended: called once when the reply is over, however it ended. most_blocks: of a chunk; margin, fade: of
        the vocoder; token2wav: of MelStream; the others as in `OmniModel.respond`. Raises InputError."""
        arguments.check_token2wav(token2wav, TOKEN2WAV)
        arguments.need_whole(1, max_new_tokens=max_new_tokens, max_codes=max_codes, most_blocks=most_blocks)
        arguments.need_whole(0, margin=margin)
        arguments.need_numbers(0.0, fade=fade)
        seed = arguments.seed_of(seed)
        self.model, self.voice, self.account = model, voice, account or Account()
        self.ids: list[int] = []
        self.codes: list[int] = []
        self.said: list[Token] = []  # tokens as the thinker gave them, for a conversation that goes on
        self.text = ""
        self.ended = ended
        self.stopped = threading.Event()
        self.lock = threading.RLock()  # held while an event is made
        self.over = False
        self.speech = {"most_blocks": most_blocks, "margin": margin, "fade": fade, "seed": seed, **token2wav}
        self.speaking = {"max_new_tokens": max_codes, "sampling": talker_sampling}
        self.thinking = (max_new_tokens, sampling, model.stop_ids(stop_token_ids), seen, seed)
        self.writing = TextStream(model.processor)
        self.speaks = Spoken(model.processor.tokenizer if model.processor is not None else None)
        self.deltas: list[str] = []
        self.events = self.run(start, talk)

    def __iter__(self) -> "ReplyStream":
        return self

    @torch.no_grad()
    def __next__(self) -> Event:
        with self.lock:
            if self.stopped.is_set():
                self.close()
            if self.over:
                raise StopIteration
            try:
                return next(self.events)
            except BaseException:  # the end, a mistake or Ctrl-C: what was kept is let go in each case
                self.close()
                raise

    def __enter__(self) -> "ReplyStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stop(self) -> None:
        """End the reply after the event that is being made; from any thread."""
        self.stopped.set()

    def close(self) -> None:
        """End the reply and free what it holds, as soon as the event that is being made is done. Twice is once."""
        with self.lock:
            if self.over:
                return
            self.over = True
            self.events.close()
            self.account.mark("end")
            if self.ended is not None:
                self.ended(self)

    def run(
        self, start: Callable[[Account], Any], talk: Callable[[Any], Prefilled] | None
    ) -> Generator[Event, None, None]:
        """The events, lazily."""
        output = start(self.account)
        vectors = self.reply_vectors(self.written(output))
        with self.account.span("thinker"):
            first = next(vectors, None)
        yield from self.new_text()
        if first is not None and talk is not None and self.voice is not None:
            with self.account.span("talker prefill"):
                heard = talk(output)
                speech = self.new_speech(self.voice)
            thought = itertools.chain([first], in_bursts(vectors))
            track = talker.text_track(thought, heard.text_eos, heard.text_pad)
            yield from self.spoken(heard, track, speech)
        more = first
        while more is not None and not self.stopped.is_set():  # what the talker did not wait for
            with self.account.span("thinker"):
                more = next(vectors, None)
            yield from self.new_text()
        self.deltas.append(self.writing.finish())
        yield from self.new_text()

    def spoken(self, heard: Prefilled, track: Iterator[Tensor], speech: Speech) -> Iterator[Event]:
        """Text and sound while the talker speaks."""
        drawn = torch.Generator(self.model.device).manual_seed(self.thinking[-1])
        codes = self.model.talker.decode(heard, track, generator=drawn, **self.speaking)
        last = self.model.config.token2wav_config.dit_config.num_embeds
        while not self.stopped.is_set():
            with self.account.span("talker"):
                found = next(codes, None)
                code = None if found is None else int(found)
            yield from self.new_text()
            if code is None:
                break
            self.codes.append(code)
            self.account.codes += 1
            self.account.mark("first code")
            samples = speech.add(code) if code <= last else None  # special codes stand for no sound
            if samples is not None:
                yield self.sound(samples)
        if not self.stopped.is_set():
            for samples in speech.finish():
                yield self.sound(samples)

    def written(self, output: Any) -> Iterator[Token]:
        """The thinker's tokens."""
        most, sampling, stops, seen, seed = self.thinking
        drawn = torch.Generator(self.model.device).manual_seed(seed)
        return self.model.thinker.decode(output, most, sampling, stops, seen=seen, generator=drawn)

    def reply_vectors(self, tokens: Iterator[Token]) -> Iterator[Tensor]:
        """What the talker hears of each token that is no thought, one by one; the text goes to `deltas` on the way."""
        while True:
            with self.account.span("thinker"):
                token = next(tokens, None)
            if token is None:
                return
            self.said.append(token)
            self.ids.append(int(token.ids))
            self.account.tokens += 1
            self.deltas.append(self.writing.add(self.ids[-1]))
            if self.speaks(self.ids[-1]) and token.hidden is not None:
                yield token.hidden + token.embeds

    def new_text(self) -> Iterator[TextDelta]:
        """Text that has come since the last event."""
        text, self.deltas = "".join(self.deltas), []
        if text:
            self.text += text
            self.account.mark("first text")
            yield TextDelta(text)

    def new_speech(self, voice: Speaker) -> Speech:
        """DiT and vocoder for this reply."""
        how = dict(self.speech)
        most, margin, fade = how.pop("most_blocks"), how.pop("margin"), how.pop("fade")
        codec = self.model.token2wav
        seen = cpu_kernels.kept(codec.code2wav_dit_model, prepared_voice, voice)
        mel = MelStream(codec.code2wav_dit_model, seen, **how)
        wave = WaveStream(codec.code2wav_bigvgan_model, margin, fade)
        return Speech(mel, wave, self.account, most, voice.disclosed, FIRST)

    def sound(self, samples: Tensor) -> AudioChunk:
        """An event of these samples, entered in the account."""
        chunk = AudioChunk(samples)
        self.account.sounded(chunk.seconds)
        return chunk


def in_bursts(vectors: Iterator[Tensor], first: int = BURST, size: int = LATER_BURST) -> Iterator[Tensor]:
    """The same, drawn several at a time."""
    burst = list(itertools.islice(vectors, first))
    while burst:
        yield from burst
        burst = list(itertools.islice(vectors, size))


def prepared_voice(dit: DiT, voice: Speaker) -> Tensor:
    """What the DiT sees of a voice: the same in every reply."""
    weight = dit.proj_out.weight
    return dit.voice(voice.cond.to(weight), voice.ref_mel.to(weight))


def stream(
    model: Any,
    text: str | None = None,
    images: Any = (),
    audio: Any = (),
    videos: Any = (),
    messages: Any = None,
    speaker: str | Speaker | None = None,
    speak: bool = True,
    seed: int | None = 0,
    use_audio_in_video: bool = True,
    fps: float | None = None,
    **how: Any,
) -> ReplyStream:
    """`OmniModel.generate`, as it comes: an iterator of TextDelta and AudioChunk. Arguments as there.

    For a seed, text and codes are those of `generate`; the sound is, up to what the DiT's look-ahead cannot see.
    Media are read at once, so that mistakes are raised here: InputError or MediaError in one line."""
    account = Account()
    with account.span("input"):
        inputs = model.prepare(text, images, audio, videos, messages, use_audio_in_video, fps)
    return stream_inputs(model, inputs, speaker, speak, seed, account=account, **how)


def stream_inputs(
    model: Any,
    inputs: Mapping[str, Any],
    speaker: str | Speaker | None = None,
    speak: bool = True,
    seed: int | None = 0,
    **how: Any,
) -> ReplyStream:
    """`OmniModel.respond`, as it comes: `inputs` are the thinker's arguments, a batch of one. Raises InputError."""
    inputs = model.moved(inputs)
    voice = model.voice(speaker) if speak else None
    sampling = how.get("sampling", GREEDY)
    seen = None
    if sampling.repetition_penalty != 1.0:
        vocabulary = model.config.thinker_config.text_config.vocab_size
        seen = samplers.seen_tokens(vocabulary, inputs["input_ids"], inputs.get("attention_mask"))

    def start(account: Account) -> Any:
        with account.span("prefill"):
            return model.thinker.prefill(**inputs)

    def talk(output: Any) -> Prefilled:
        return model.talker.prefill(model.talker_context(output, inputs, voice))

    return ReplyStream(model, start, voice, talk, seen, seed, **how)
