"""The checks of lesson 03, a module for each notebook: `search` and `studies`."""
