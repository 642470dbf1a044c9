"""Many runs: which there are, how they are started and watched."""
