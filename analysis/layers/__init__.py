"""`isae-analyze layers`: features of layers matched on the same places."""
