"""Word embeddings in PyTorch at the speed of the hardware."""
