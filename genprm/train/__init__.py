"""Training: generative PRMs by fine-tuning, discriminative heads, implicit PRMs, and the loop that joins them."""
