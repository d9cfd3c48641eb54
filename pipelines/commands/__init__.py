"""The commands of `python -m pipelines`, a module each."""
