"""The Triton twins of the operations, one a file; imported where a GPU runs them."""
