"""Published data sets by name, read from the publisher's own files: a row each, and a reader for each layout."""
