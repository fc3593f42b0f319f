"""OmniModel: the parts joined. Text, pictures, sound and video in; text and speech out (report, figure 2).

    messages --processor--> tensors --thinker--> text, and with each token a hidden state
    hidden states + embeddings --talker--> codec tokens --token2wav--> 24 kHz wave

Checkpoints are in the reference's layout: what is saved here loads in `transformers`, and the other way round. Beside
it lies what the reference does not have, the speech tokenizer and the speaker encoder, in a file of their own.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import arguments, checkpoints, talker
from . import quantise as quantising
from . import sampling as samplers
from .codec import speaker as voices
from .codec.speech_tokenizer import SpeechTokenizer
from .codec.token2wav import Token2Wav
from .config import OmniConfig
from .errors import CheckpointError, ConfigError, InputError
from .processing import chat
from .processing.audio import audio_array
from .processing.processor import OmniProcessor, remove_files
from .processing.thoughts import Spoken
from .runtime import hardware
from .sampling import GREEDY, Sampling
from .thinker import Thinker, ThinkerOutput, audio_lengths

REFERENCE_PARTS = ("thinker.", "talker.", "token2wav.")
OWN_PARTS = ("speech_tokenizer.", "speaker_encoder.")
OWN_WEIGHTS = "speech_tokenizer.safetensors"  # what the reference's layout has no place for
SPEAKERS = "spk_dict.pt"
GENERATION = "generation_config.json"  # how the talker's codes are drawn, unless one says it
SPEECH_RATE = 24000  # Hz
FLOAT32_PARTS = ("token2wav.", *OWN_PARTS)  # the released DiT and vocoder were trained in it and need it


@dataclass
class Reply:
    """What the model answers."""

    text: str | None  # None without a tokenizer
    ids: Tensor  # (tokens,): what the thinker wrote, the stop token included
    audio: Tensor | None  # (samples,), float32; None if it was not to speak; empty if there was nothing to say
    codes: Tensor | None  # (codes,): what the talker said, 50 a second
    sample_rate: int = SPEECH_RATE  # Hz


class OmniModel(nn.Module):
    """The whole model: `OmniModel(config)` with random weights, `OmniModel.from_pretrained(folder)` with a folder's."""

    def __init__(self, config: OmniConfig) -> None:
        super().__init__()
        self.config = config
        self.thinker = Thinker(config.thinker_config)
        # None where the configuration has no such part; Any, because the type checker cannot know which it has
        self.talker: Any = None
        self.token2wav: Any = None
        self.speech_tokenizer: Any = None
        self.speaker_encoder: Any = None
        if config.enable_audio_output:
            self.talker = talker.Talker(config.talker_config)
            self.token2wav = Token2Wav(config.token2wav_config)
        if config.speech_tokenizer_config is not None:
            self.speech_tokenizer = SpeechTokenizer(config.speech_tokenizer_config)
            self.speaker_encoder = voices.SpeakerEncoder(config.token2wav_config.dit_config)
        self.processor: OmniProcessor | None = None

    @property
    def device(self) -> torch.device:
        """Where the thinker is."""
        return self.thinker.lm_head.weight.device

    @property
    def speakers(self) -> dict[str, voices.Speaker]:
        """Voices by name; the same table as `token2wav.speakers`."""
        return {} if self.token2wav is None else self.token2wav.speakers

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        quantise: str | None = None,
    ) -> "OmniModel":
        """Load a folder or hub id in the reference's layout, in eval mode.

        device: default the one that `runtime.hardware` finds. dtype: of thinker and talker, a torch type or its name
        (the other parts stay in float32); by default float32 weights stay so, and 16-bit ones become the type that the
        device computes in.
        quantise: "int8" or "nf4", of the decoders' matrices, for a GPU on which 16 bits do not fit (quantise.py).
        A folder without tokenizer and processor files loads too; `processor` is then None.
        Raises CheckpointError or ConfigError, in one line naming the culprit."""
        quantising.check_kind(quantise)
        asked = checkpoints.float_type(dtype)
        folder = checkpoints.resolve(folder)
        config = OmniConfig.from_dict(checkpoints.read_json(folder / "config.json"))
        files = checkpoints.weight_files(folder)
        if config.speech_tokenizer_config is not None and (folder / OWN_WEIGHTS).is_file():
            files |= checkpoints.tensor_names(folder / OWN_WEIGHTS)
        else:  # a folder that the reference saved keeps our configuration, but not our file
            config = replace(config, speech_tokenizer_config=None)
        here = hardware(device)
        kind = asked or checkpoints.compute_type(files, here)
        try:
            with checkpoints.EmptyOnMeta():
                model = cls(config)
        except (ValueError, RuntimeError, TypeError, ZeroDivisionError, IndexError) as error:
            raise ConfigError(
                f"{folder / 'config.json'}: no model can be made of it ({error})".replace("\n", " ")
            ) from None

        def dtype_of(name: str, stored: torch.dtype) -> torch.dtype:
            return torch.float32 if name.startswith(FLOAT32_PARTS) else kind or stored

        ignored = () if config.enable_audio_output else ("talker.", "token2wav.")
        quantising.need_to_load(folder, files, dtype_of, quantise, here, ignored)
        kept_as = None if quantise is None else functools.partial(quantising.quantised, kind=quantise)
        checkpoints.load_weights(model, files, here.device, dtype_of, ignored, kept_as)
        for name, buffer in model.named_buffers():  # computed, not stored
            owner, _, leaf = name.rpartition(".")
            model.get_submodule(owner)._buffers[leaf] = buffer.to(here.device)
        if config.enable_audio_output:
            given, default = checkpoints.read_json(folder / GENERATION, {}), model.talker.default_sampling
            model.talker.default_sampling = samplers.from_config(given, "talker", default)
            sounding = samplers.from_config(given, "token2wav", Sampling(temperature=1.0))
            model.token2wav.code2wav_dit_model.temperature = sounding.temperature
        if (folder / SPEAKERS).is_file():
            model.speakers.update(voices.load_speakers(folder / SPEAKERS))
        if any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            model.processor = OmniProcessor.from_pretrained(folder)
        return model.eval()

    def save_pretrained(
        self, folder: str | Path, shard_bytes: int = checkpoints.SHARD_BYTES, dtype: torch.dtype | str | None = None
    ) -> None:
        """Write the reference's layout: config.json, safetensors, spk_dict.pt, and the processor's files if it has any.

        Files of a processor that was saved there before and is not this model's are taken away.
        `transformers.Qwen2_5OmniForConditionalGeneration.from_pretrained` loads it. Each file is written atomically,
        configuration last. dtype: the type in which floats are stored (default: their own); in bfloat16 a file is half
        as large, and parts that need float32 are widened on loading. Raises CheckpointError when the disk refuses."""
        folder, kind = Path(folder), checkpoints.float_type(dtype)
        if quantising.is_quantised(self):
            raise CheckpointError(f"{folder}: a quantised model is not saved; save the one that it was loaded from")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"{folder}: cannot be made ({checkpoints.one_line(error)})") from None
        raw = self.config.to_dict()
        if self.processor is not None:
            # The reference stops its thinker by this; ours asks the tokenizer.
            raw["thinker_config"]["eos_token_id"] = self.processor.end_id
            raw["thinker_config"]["pad_token_id"] = self.processor.tokenizer.pad_token_id
            self.processor.save_pretrained(folder)
        else:
            remove_files(folder)
        checkpoints.save_weights(self, folder, shard_bytes, REFERENCE_PARTS, kind)
        if self.speech_tokenizer is not None:
            own = [(name, tensor) for name, tensor in checkpoints.persistent(self) if name.startswith(OWN_PARTS)]
            tensors = {name: checkpoints.stored(tensor, kind) for name, tensor in own}
            checkpoints.write_tensors(folder / OWN_WEIGHTS, tensors)
        voices.save_speakers(folder / SPEAKERS, self.speakers, kind)
        if self.config.enable_audio_output:
            drawn = samplers.to_config(self.talker.default_sampling, "talker")
            drawn["token2wav_temperature"] = self.token2wav.code2wav_dit_model.temperature
            checkpoints.write_json(folder / GENERATION, drawn)
        checkpoints.write_json(folder / "config.json", raw)

    @torch.no_grad()
    def generate(
        self,
        text: str | None = None,
        images: Sequence[Any] = (),
        audio: Sequence[Any] = (),
        videos: Sequence[Any] = (),
        messages: Any = None,
        speaker: str | voices.Speaker | None = None,
        speak: bool = True,
        seed: int | None = 0,
        use_audio_in_video: bool = True,
        fps: float | None = None,
        **how: Any,
    ) -> Reply:
        """Answer one turn: text with images, sounds and videos before it, or a conversation as `messages`.

        Media as OmniProcessor takes them. speaker: a name in `speakers` or a Speaker (default: the first). speak: also
        aloud. seed: of whatever is drawn at random (None: a fresh one). use_audio_in_video: videos that have sound are
        heard too. fps: frames a second sampled from videos (default 2). how: the other arguments of `respond`.
        Raises InputError or MediaError in one line."""
        inputs = self.prepare(text, images, audio, videos, messages, use_audio_in_video, fps)
        return self.respond(inputs, speaker, speak, seed, **how)

    def stream(self, *question: Any, **how: Any) -> Iterator[Any]:
        """`generate` as it comes: TextDelta and AudioChunk. Arguments, and what is given back: `streaming.stream`."""
        from . import streaming  # the room above, which needs this one

        return streaming.stream(self, *question, **how)

    def prepare(
        self,
        text: str | None = None,
        images: Sequence[Any] = (),
        audio: Sequence[Any] = (),
        videos: Sequence[Any] = (),
        messages: Any = None,
        use_audio_in_video: bool = True,
        fps: float | None = None,
    ) -> dict[str, Any]:
        """The thinker's tensors for one turn, where the model is and in its type. Arguments as in `generate`."""
        if self.processor is None:
            raise InputError(
                "this checkpoint came without tokenizer and processor (tokenizer.json, preprocessor_config.json): "
                "load a folder that has them, or give tensors to respond()"
            )
        if messages is None:
            messages = [chat.user_message(text, *map(arguments.listed, (images, audio, videos)))]
        elif text is not None or any(map(len, map(arguments.listed, (images, audio, videos)))):
            raise InputError("give either messages, with the media in them, or text and media, not both")
        how: dict[str, Any] = {"use_audio_in_video": use_audio_in_video, "fps": fps, "longest_audio": True}
        return self.moved(self.processor(messages=messages, **how))

    @torch.no_grad()
    def respond(
        self,
        inputs: Mapping[str, Any],
        speaker: str | voices.Speaker | None = None,
        speak: bool = True,
        seed: int | None = 0,
        max_new_tokens: int = 512,
        sampling: Sampling = GREEDY,
        stop_token_ids: Sequence[int] | int | None = None,
        max_codes: int = 3000,
        talker_sampling: Sampling | None = None,
        noise: Tensor | None = None,
        **token2wav: Any,
    ) -> Reply:
        """Answer tensors, a batch of one: `inputs` are the thinker's arguments.

        max_new_tokens, sampling, stop_token_ids: of the thinker (default: greedy, until the tokenizer's end of turn);
        max_codes, talker_sampling: of the talker (default: 60 s, the release's); noise: (1, 2 * codes, 80), from which
        the DiT starts (default: drawn from `seed`); token2wav: num_steps, guidance_scale, sway_coefficient, solver.
        Raises InputError."""
        arguments.check_token2wav(token2wav)
        arguments.need_whole(1, max_new_tokens=max_new_tokens, max_codes=max_codes)
        seed, stops = arguments.seed_of(seed), self.stop_ids(stop_token_ids)
        inputs = self.moved(inputs)
        voice = self.voice(speaker) if speak else None
        generator = torch.Generator(self.device).manual_seed(seed)
        start = self.thinker.prefill(**inputs)
        seen = None
        if sampling.repetition_penalty != 1.0:
            vocab = self.config.thinker_config.text_config.vocab_size
            seen = samplers.seen_tokens(vocab, inputs["input_ids"], inputs.get("attention_mask"))
        tokens = list(self.thinker.decode(start, max_new_tokens, sampling, stops, seen=seen, generator=generator))
        ids = torch.cat([token.ids for token in tokens]).cpu()
        text = self.processor.decode(ids) if self.processor is not None else None
        if voice is None:
            return Reply(text, ids, None, None)
        codes = torch.empty(0, dtype=torch.long)
        speaks = Spoken(self.processor.tokenizer if self.processor is not None else None)
        aloud = [token for token, number in zip(tokens, ids.tolist(), strict=True) if speaks(number)]
        spoken = [token.hidden + token.embeds for token in aloud if token.hidden is not None]
        if spoken:  # an answer of the stop token alone has nothing to say
            context = self.talker_context(start, inputs, voice)
            # The talker draws by a generator of its own: streaming, where both draw in turns, then draws the same.
            drawn = torch.Generator(self.device).manual_seed(seed)
            how = {"max_new_tokens": max_codes, "sampling": talker_sampling, "generator": drawn}
            codes = self.talker.generate(context, torch.stack(spoken, dim=1), **how)[0]
        return Reply(text, ids, self.say(codes, voice, noise, seed, **token2wav), codes.cpu())

    def moved(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The thinker's arguments on its device, floats in its type. Raises InputError unless they are one prompt."""
        ids = inputs.get("input_ids")
        if not torch.is_tensor(ids) or ids.ndim != 2 or ids.shape[0] != 1 or not ids.shape[1]:
            given = tuple(ids.shape) if torch.is_tensor(ids) else type(ids).__name__
            raise InputError(f"one conversation at a time: input_ids are {given}, expected (1, length)")
        weight, moved = self.thinker.lm_head.weight, {}
        for name, value in inputs.items():
            if torch.is_tensor(value):
                exact = not value.is_floating_point() or name == "video_second_per_grid"
                value = value.to(self.device) if exact else value.to(weight)
            moved[name] = value
        return moved

    def stop_ids(self, given: Sequence[int] | int | None = None) -> tuple[int, ...]:
        """Tokens that end the thinker's reply: those given (one or several), else the tokenizer's (none without one).

        Raises InputError."""
        if given is not None:
            return arguments.token_ids(given)
        return tuple(self.processor.stop_ids) if self.processor is not None else ()

    def voice(self, speaker: str | voices.Speaker | None) -> voices.Speaker:
        """The Speaker of that name (default: the first). Raises InputError when there is none."""
        if self.token2wav is None:
            raise InputError("this model has no talker (enable_audio_output is false): ask with speak=False")
        if speaker is None:
            if not self.speakers:
                raise InputError("this checkpoint has no speakers: enrol one with model.enrol, or ask with speak=False")
            speaker = next(iter(self.speakers))
        return self.token2wav.named_speaker(speaker)

    def talker_context(
        self, start: ThinkerOutput, inputs: Mapping[str, Any], speaker: voices.Speaker
    ) -> talker.TalkerContext:
        """What the talker hears before the reply: the prompt as the thinker understood it, and who shall speak.

        start: of `thinker.prefill(**inputs)` over the whole prompt."""
        ids, config = inputs["input_ids"], self.config.talker_config
        special = (speaker.bos_token, config.tts_text_end_token_id, config.tts_text_pad_token_id)
        vocabulary = self.thinker.model.embed_tokens.weight
        if not 0 <= speaker.bos_token < len(vocabulary):
            raise InputError(f"the speaker's token {speaker.bos_token} is not in the vocabulary of {len(vocabulary)}")
        bos, eos, pad = vocabulary[list(special)].unbind(0)
        sound = (inputs.get(name) for name in ("input_features", "feature_attention_mask", "audio_feature_lengths"))
        return talker.TalkerContext(
            talker.context_vectors(start.last_hidden_state, start.inputs_embeds, ids, config),
            ids,
            bos[None],
            eos,
            pad,
            inputs.get("attention_mask"),
            inputs.get("image_grid_thw"),
            inputs.get("video_grid_thw"),
            audio_lengths(*sound),
            inputs.get("video_second_per_grid"),
            bool(inputs.get("use_audio_in_video")),
        )

    def say(
        self, codes: Tensor, speaker: voices.Speaker, noise: Tensor | None = None, seed: int = 0, **how: Any
    ) -> Tensor:
        """Codes (n,) -> wave (samples,), float32, on the CPU; codes that stand for no sound are left out."""
        dit = self.config.token2wav_config.dit_config
        sounding = codes <= dit.num_embeds
        if noise is not None and noise.ndim == 3 and noise.shape[1] == len(codes) * dit.repeats:
            noise = noise[:, sounding.repeat_interleave(dit.repeats).to(noise.device)]
        codes = codes[sounding]
        if noise is None:
            # drawn on the CPU, so that a seed gives the same speech on every machine
            shape = (1, len(codes) * dit.repeats, dit.mel_dim)
            noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
            # A voice of another kind may stand in the codec's place (lab 05).
            noise *= getattr(getattr(self.token2wav, "code2wav_dit_model", None), "temperature", 1.0)
        return self.token2wav(codes, speaker=speaker, noise=noise, **how).float().cpu()

    def enrol(
        self, wave: Any, rate: int, name: str, bos_token: int | None = None, disclose: bool = True
    ) -> voices.Speaker:
        """Learn a voice from a recording and keep it in `speakers` under `name`.

        wave: (samples,) or (channels, samples), array or tensor, at `rate` Hz, half a second or more. bos_token: the
        thinker's token that opens replies in this voice (default: that of the first speaker). Replies in it carry an
        audible mark unless `disclose` is False (see `codec.disclosure`). Raises InputError."""
        if self.speaker_encoder is None:
            raise InputError("this checkpoint has no speaker encoder: the released ones come with their speakers alone")
        if self.token2wav is None:
            raise InputError("this model has no talker (enable_audio_output is false), so no voice for it to enrol")
        if not isinstance(name, str) or not name:
            raise InputError(f"a speaker needs a name, got {name!r}")
        if bos_token is None:
            known = next(iter(self.speakers.values()), None)
            bos_token = known.bos_token if known else self.config.talker_config.tts_text_start_token_id
        samples = torch.from_numpy(audio_array(wave))
        self.speakers[name] = voices.enrol(samples, rate, self.speaker_encoder, bos_token, disclose)
        return self.speakers[name]
