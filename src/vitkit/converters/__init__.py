"""Other libraries' weight files, each a table of rules read in both directions. One file per format."""
