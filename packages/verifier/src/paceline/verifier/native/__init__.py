"""The decoder as native code for the CPU: compiled where it runs, for the processor it runs on."""
