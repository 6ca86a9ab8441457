"""lmatrix inside of a real Synapse. These tests need the extra ``lmatrix[synapse]``; without it they are skipped."""
