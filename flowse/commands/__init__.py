"""The commands of `flowse`, a module each with `add_arguments(parser)` and `run(arguments)`."""
