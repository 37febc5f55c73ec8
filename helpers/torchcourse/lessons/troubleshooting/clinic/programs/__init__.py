"""The broken programs of the clinic, one script per case. They are read and executed, never imported."""
