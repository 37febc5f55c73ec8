"""The checks of lesson 06, one module per notebook."""
