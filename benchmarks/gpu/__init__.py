"""Everything that is to be known of a GPU, in parts that each end within nine minutes and keep what they have."""
