"""The tests. A package, so that the processes that tests start import the same modules under the same names."""
