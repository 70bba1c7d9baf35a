"""What is wrong with a set of audio: damaged files, copies, leaks between splits, labels that look wrong."""
