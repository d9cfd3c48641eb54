"""The recording and the picture of the first page."""
