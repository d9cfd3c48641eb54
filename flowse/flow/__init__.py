"""Conditional flow matching: path, loss and solver; they take any velocity callable."""
