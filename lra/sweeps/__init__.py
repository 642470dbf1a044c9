"""Many runs at a time.

Owns: which runs a sweep has, on which cores and devices each is started, what is shown meanwhile.
Must not know: reporting, or how a run is trained. Only launch.py knows submitit.
"""
