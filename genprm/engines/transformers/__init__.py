"""The engine on plain PyTorch: waiting requests are decoded together, with transformers' models."""
