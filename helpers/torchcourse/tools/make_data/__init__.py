"""Commands that make the data, tables and weights that the package ships, each with its source."""
