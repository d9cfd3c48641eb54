"""The commands of `python -m pipelines`: modules with `add_arguments(parser)` and `run(arguments)`."""
