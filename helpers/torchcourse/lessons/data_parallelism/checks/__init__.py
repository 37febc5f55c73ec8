"""The checks of lesson 01, one module per notebook or exercise."""
