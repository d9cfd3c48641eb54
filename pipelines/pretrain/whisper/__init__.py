"""Recipe of the embedded Whisper: a small multilingual one in openai-whisper's own format, trained on made speech."""
