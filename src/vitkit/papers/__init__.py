"""Every table and figure of the paper, one file each, found by its module name."""
