"""Reproductions of papers, a subpackage each; helix: the paper whose method helixsim implements."""
