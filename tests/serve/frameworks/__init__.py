"""Programs that run in the frameworks' environments, and what makes these environments."""
