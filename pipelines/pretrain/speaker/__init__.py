"""Recipe of the embedded speaker encoder: a small TDNN with attentive pooling and WeSpeaker's ONNX interface."""
