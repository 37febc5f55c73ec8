"""The checks of lesson 02, one module per notebook."""
