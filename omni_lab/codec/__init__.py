"""The codec: wave -> codes (speech tokenizer) -> mel (DiT by flow matching) -> wave (BigVGAN), and speakers."""
