"""Codes -> wave: the DiT and the vocoder, joined (`token2wav` of the released checkpoints).

The reference samples without gradients, draws its noise inside, and squeezes its output; here noise is an argument and
gradients flow from the wave to every parameter. Both parts run in float32: the released ones were trained so.
"""

import torch
from torch import Tensor, nn

from ..config import Token2WavConfig
from ..errors import InputError
from . import disclosure, packed_vocoder
from .bigvgan import BigVGAN
from .dit import DiT
from .speaker import Speaker


class Token2Wav(nn.Module):
    """24 kHz speech from codec tokens in the voice of a speaker (report, section 2.4).

    `speakers` maps names to voices (of `spk_dict.pt`, or enrolled); whoever loads a checkpoint fills it.
    """

    def __init__(self, config: Token2WavConfig) -> None:
        super().__init__()
        self.config = config
        self.code2wav_dit_model = DiT(config.dit_config)
        self.code2wav_bigvgan_model = BigVGAN(config.bigvgan_config)
        self.speakers: dict[str, Speaker] = {}

    def forward(
        self,
        codes: Tensor,
        conditioning: Tensor | None = None,
        reference_mel: Tensor | None = None,
        noise: Tensor | None = None,
        num_steps: int = 10,
        guidance_scale: float = 0.5,
        sway_coefficient: float | None = -1.0,
        *,
        solver: str = "rk4",
        speaker: Speaker | str | None = None,
    ) -> Tensor:
        """Wave in [-1, 1]: codes (n,) -> (n * repeats * hop,), or (batch, n) -> (batch, ...). No codes, no samples.

        The voice is either `speaker` (or a name in `speakers`) or conditioning (1 or batch, enc_emb_dim) with
        reference_mel (1 or batch, frames, mel_dim). noise: (batch, n * repeats, mel_dim), drawn if not given. The other
        arguments are those of `DiT.sample`. A disclosed speaker's speech carries the audible mark. Raises InputError.
        """
        if not torch.is_tensor(codes) or codes.ndim not in (1, 2):
            given = tuple(codes.shape) if torch.is_tensor(codes) else type(codes).__name__
            raise InputError(f"codes are {given}, expected a tensor (codes,) or (batch, codes)")
        if speaker is not None and conditioning is None and reference_mel is None:
            speaker = self.named_speaker(speaker)
            conditioning, reference_mel = speaker.cond, speaker.ref_mel
        elif speaker is not None or conditioning is None or reference_mel is None:
            raise InputError("token2wav: give a speaker, or conditioning and reference_mel together")
        dit, rows = self.code2wav_dit_model, codes[None] if codes.ndim == 1 else codes
        weight = dit.proj_out.weight
        conditioning, reference_mel = (
            t.to(weight).expand(rows.shape[0] if t.shape[0] == 1 else -1, *t.shape[1:])
            for t in (conditioning, reference_mel)
        )
        rows = rows.to(weight.device)
        how = (num_steps, guidance_scale, sway_coefficient, solver)
        mel = dit.sample(rows, conditioning, reference_mel, None if noise is None else noise.to(weight), *how)
        wave = packed_vocoder.vocode(self.code2wav_bigvgan_model, mel)
        if isinstance(speaker, Speaker) and speaker.disclosed:
            wave = disclosure.mark(wave)
        return wave[0] if codes.ndim == 1 else wave

    def named_speaker(self, speaker: Speaker | str) -> Speaker:
        """`speaker` itself, or the one of that name. Raises InputError."""
        if isinstance(speaker, Speaker):
            return speaker
        if speaker not in self.speakers:
            raise InputError(
                f"no speaker named {speaker!r}: choose one of {', '.join(self.speakers) or '(none loaded)'}"
            )
        return self.speakers[speaker]
