"""All that is to be known of a GPU, in parts: the most telling first, each result on the disk when it is there."""
