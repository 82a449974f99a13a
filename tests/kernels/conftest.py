"""Triton decides when it is imported whether it compiles or interprets, so each kind has its own process."""

import os

# Run by test_interpreter.py, or by hand: TRITON_INTERPRET=1 pytest tests/kernels/triton_kernels
collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["triton_kernels"]
