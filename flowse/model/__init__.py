"""The networks: the DiT that flows, the mask U-Net that predicts, and the system of both."""
