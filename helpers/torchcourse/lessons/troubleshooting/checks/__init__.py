"""The checks of lesson 05, one module per notebook."""
