"""The DiT velocity network and its parts."""
