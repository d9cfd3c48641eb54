"""Whisper as a labeller: which language a recording is in and what is said in it, over many recordings in batches."""
