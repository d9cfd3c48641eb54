"""The recipe of the embedded speaker encoder: a small TDNN with attentive pooling, in WeSpeaker's ONNX interface."""
