"""One wing per lesson, in the lessons' order. A wing uses the ground floor and earlier wings, and nothing else."""
