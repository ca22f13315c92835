"""
Three questions about one tumor
========================