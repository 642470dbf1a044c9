"""From finished runs to tables and pictures.

Owns: the records in results/, the accuracy table and its formats, significance, pictures, HTML.
Must not know: sweeps, or how a run is trained. Only pictures/ knows matplotlib.
"""
