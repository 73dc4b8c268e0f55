"""A package, so that pytest does not take its test_products.py for that of the layers."""
