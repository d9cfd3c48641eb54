"""Recipe: train the embedded Vocos vocoder, a small one, on a few hours of recordings and two CPU cores."""
