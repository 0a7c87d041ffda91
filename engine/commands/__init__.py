"""One module per verb of the command line: what it takes, and how it shows what it did."""
