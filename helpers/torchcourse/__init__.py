"""Course helpers: real training code for taking PyTorch beyond one GPU. Importing this package imports nothing heavy."""

