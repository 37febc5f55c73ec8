"""The checks of lesson 04, one module per notebook."""
