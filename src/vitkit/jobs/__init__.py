"""One file per verb: the steps in order, made of the parts in the other packages."""
