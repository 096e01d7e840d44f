"""Is this answer the reference answer? Checked in processes that can be killed."""
