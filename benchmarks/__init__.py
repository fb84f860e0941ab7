"""What produced every figure in the docs, one command each."""
