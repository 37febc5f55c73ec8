"""The checks of lesson 03, one module per notebook."""
