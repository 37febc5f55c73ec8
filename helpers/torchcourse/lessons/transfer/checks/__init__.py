"""The checks of lesson 07, one module per notebook."""
