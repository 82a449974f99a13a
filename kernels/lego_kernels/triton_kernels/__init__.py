"""The Triton kernels of the ops, one a file; imported only where a GPU runs them."""
