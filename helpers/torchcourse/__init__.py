"""Real training code for taking PyTorch beyond one GPU, used by the lessons. Importing this imports nothing heavy."""
