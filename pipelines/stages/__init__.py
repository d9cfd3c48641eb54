"""The stages, a module each; they meet only in files."""
