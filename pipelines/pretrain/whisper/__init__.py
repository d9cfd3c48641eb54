"""Recipe of the embedded Whisper: a small multilingual model in openai-whisper's format, from synthetic speech."""
