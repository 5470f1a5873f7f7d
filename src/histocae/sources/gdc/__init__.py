"""The NCI's Genomic Data Commons: which slides it has, and their files.

API: GDC Documentation, "API User's Guide" (Search and Retrieval; Downloading Files).
"""
