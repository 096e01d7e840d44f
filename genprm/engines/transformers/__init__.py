"""Plain PyTorch: requests that wait are decoded together by the means of transformers."""
