"""What everything does, exactly: the rows of the semantics table, on every store."""
