"""What engines make once and find again: where it lies, whether it is still true, and what predicting needs beside a graph."""
