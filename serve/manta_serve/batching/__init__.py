"""The computing of texts: which are computed next and together, and the answers that are kept."""
